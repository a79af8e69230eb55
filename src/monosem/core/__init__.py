"""Ground floor: shapes, errors, configuration, artifacts and progress. Imports nothing of Monosem."""
