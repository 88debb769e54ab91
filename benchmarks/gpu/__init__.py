"""What gpu_check.py runs, part by part, each in a process of its own."""
