"""Classifiers on frozen features: one file each, in scikit-learn's style. `fit(X, y)`, `predict`, `predict_proba`, `classes_`."""
