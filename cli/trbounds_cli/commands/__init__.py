"""The commands, one file each; a file's first line is its line in the overview."""
