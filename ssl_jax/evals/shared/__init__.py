"""What evaluators share: features, their cache, figures, protocols, intervals, the report."""
