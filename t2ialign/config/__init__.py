"""From YAML to validated sections and components."""
