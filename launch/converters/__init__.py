"""From the raw files of public data sets to Parquet, a data set each."""
