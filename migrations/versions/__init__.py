"""One file per revision. They are frozen: none imports code of the project, so none changes when the code does."""
