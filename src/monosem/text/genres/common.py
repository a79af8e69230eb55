"""Common short words of English, for random text that has more than the generator's own words in it.

Few of them are in `words.py`; which ones are makes no difference, they are only drawn at random.
They are short, and so most of them become one token in a small vocabulary.
"""

WORDS = """
able act add age air any area arm art ask aunt away baby back bad band bank bar base bay bean beat bed
bell bend best big bill bit bite blow body bone born both bowl burn bus busy but buy camp can care case
cell city club coal cook cool copy cost cry cut dare data date dead deal dear debt deep desk die dirt
dish does down draw drop dry dust duty each ear earn ease edge else end even ever evil eye face fact
fail fair fall far fast fear feed feel few fill film firm fit fix flag flat flow fly fold foot form four
free full fun gain game gas gate get glad goal god gold gray grow gun hair half hall hang harm hate have
heal hear heat help hide hill hit hold hole home hope hot hour how huge hunt hurt ice idea ill inch into
iron item job join joke jump just keep kick kill kind kiss knee know lack lady lake land late law lazy
lead leaf leg lend less let lie life lift like line lip list live lock look lose lot love luck mail main
many may mean meet mend mile mind mine miss mix more most move much mud must name near neat neck need
nest net news next nice none noon nor nose note oak obey off oil once only our out own page pain pair
pale pan part pass past path pay pig pipe pity plan play pool poor port pot pour pray pull pure push put
race rare rate real rent rest rich ride ring rise risk rock role roll roof root row rub rule rush sad
safe sail sale same sand save say sea seat see seed seem sell send set she shop show shut sick side sign
silk sink sit size skin sky slip soft soil some son sort soul spot star stay step stir stop such suit
sure swim tail talk tall tax tea tear tell ten tend tent term test than that thin this thus tie till tin
tone too tour town trip true try tube tune type ugly unit use vast very view vote wait wake wall want
war wash wave way weak wear week west wet what when whip why wide wife wild will win wine wing wire wise
wish wood wool work year yes yet you zero
"""
COMMON = tuple(WORDS.split())
"""About four hundred words."""
