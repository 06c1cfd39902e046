"""Reports: results of any command as one table and one page, and what can be said of their differences."""
