"""Budget, candidates, the solver, recipes, the forecast of memory, time and disk."""
