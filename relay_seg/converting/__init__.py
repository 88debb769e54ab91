"""What the scripts in data_prep/ are made of: from downloads to scenes."""
