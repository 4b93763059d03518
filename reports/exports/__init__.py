"""Rows by the column: data frames, and files of any size, made from time series, relations and answers of reports."""
