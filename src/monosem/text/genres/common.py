"""Common words of English, for random text that has more than the generator's own words in it.

Few of them are in `words.py`; which ones are makes no difference, they are only drawn at random.
"""

WORDS = """
able above accept across act action actual add admit afford afraid again against age agree ahead air
allow almost alone along already although among amount angle anger another answer any anyone appear
apply area argue arm around arrive art article ask asleep attack attend aunt autumn avoid awake away
baby back bad balance band bank bar base basic battle bay bean beat beautiful become bed begin behave
behind believe bell belong below bend best better between beyond big bill birth bit bite blood blow
board body bone born borrow both bottle bottom bowl branch brave break breath brick bright bring broad
brother build burn bus busy but buy camp can capital care careful carry case catch cause cell centre
certain chain chance change character charge cheap check child choice choose circle city claim class
clean clear clever climb clock cloth cloud club coal coast coffee collect college command common company
compare complete condition connect consider contain continue control cook cool copy corner correct cost
cotton could count country couple course court cover crime cross crowd cry current curve cut damage
dance danger dare data date daughter dead deal dear death debt decide deep degree depend describe desert
desk detail die differ dinner direct dirt discover dish distance divide does double doubt down draw
dream drive drop dry dust duty each ear early earn earth ease edge effect effort eight either else empty
end enemy engine enjoy enough enter equal error escape even event ever every evil exact example except
excite expect explain express eye face fact fail fair faith fall false family famous far fast father
fault favour fear feather feed feel fence few field fight figure fill film final finger finish firm fit
fix flag flat flight float floor flow fly fold follow foot force foreign forest forget forgive form
forward found four free fresh front fruit full fun future gain game gas gate gather general gentle get
glad go goal god gold grain grand grass gray ground group grow guard guess guest guide gun hair half hall
handle hang happen happy harm harvest hate have heal health hear heart heat heavy help hide hill history
hit hold hole holiday hollow home honest hope hot hour how huge human hundred hunger hunt hurry hurt
husband ice idea ill imagine improve inch include increase inside instead interest into iron island
issue item job join joke journey judge jump just keep kick kill kind kiss kitchen knee knock know labour
lack lady lake land language large late laugh law lazy lead leaf learn least leave leg lend length less
let level library lie life lift like limit line lip list listen little live local lock lonely look loose
lose lot love luck lunch machine magic mail main manage many march match matter may maybe mean measure
meet member memory mend mention metal method middle might mile mind mine minute miss mistake mix model
modern moment money month more most mother motor mountain mouth move much mud must name narrow nation
nature near neat neck need neighbour neither nerve nest net news next nice noble noise none noon nor
normal nose note nothing notice number nurse oak obey object ocean off offer oil once only operate
opposite or order ordinary other ought our out outside own page pain paint pair pale pan part party pass
past path pay peace people perfect perhaps period person piece pig pipe pity plain plan plane plant plate
play please plenty point poison police polite pool poor popular port position possible pot pound pour
power practice praise pray present press pretty price print prison private prize problem produce promise
proof proper protect proud prove public pull punish pupil pure push put quality quarter queen question
quick quiet quite race radio raise range rare rate rather reach real reason receive record reduce refuse
regard region relate remain remember remove rent repair repeat reply report respect rest result return
reward rich ride right ring rise risk rock role roll roof root rough round row royal rub rule rush sad
safe sail sale same sand save say scale scene science score sea search season seat second secret see
seed seem sell send sense separate serious serve set settle seven several shade shake shall shape share
sharp she shelf shell shine shock shoot shop shore should shoulder shout show shut sick side sight sign
silence silk simple since single sink sit size skill skin sky slave slight slip smell smile smoke smooth
so social soft soil soldier solid some son sort soul sound source south space spare speak special speed
spell spend spirit spite split spoil spoon sport spot spread spring square stage stair stamp stand star
start state stay steal steam steel step stick stiff still stir stop storm strange stream street strike
strong study stupid subject success such sudden suffer suggest suit sure surface surprise sweet swim
sword system table tail talk tall taste tax tea teach tear tell ten tend tent term test than thank that
theatre thick thief thin thing think third this thought thread threat throat through throw thumb thus
tie tight till tin tired title to today together tomorrow tone tongue too tooth total touch tour toward
tower town trade train travel treat trial trick trip trouble true trust try tube tune twice twist type
ugly uncle unit unite until up upper use usual valley value various vast very view village visit voice
vote wait wake wall want war wash waste watch wave way weak wealth wear weather week weigh welcome west
wet what when where whether which while whip whisper whole why wide wife wild will win wine wing wire
wise wish within without woman wonder wood wool work worry worse worth would wrong year yellow yes yet
yield you young youth zero
"""
COMMON = tuple(WORDS.split())
"""About a thousand words."""
