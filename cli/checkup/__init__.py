"""What `sgg doctor` looks at: each check gives findings, and each finding that is no good says what to do."""
