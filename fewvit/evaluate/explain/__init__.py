"""Why a number differs from the paper's: each thing that decides it, beside what the published one was made with."""
