"""Relevance: what is a right answer to which query, each kind in one file, and how its protocol scores a ranking.

An object of one of these kinds is bound to the rows of one index and one set of queries. It says which queries are
asked (`queries`), how many neighbours of each it needs (`depth`), which row of the index is the query itself (`own`),
and turns the neighbours, one slice of queries after another, into result rows (`measure`).
"""
