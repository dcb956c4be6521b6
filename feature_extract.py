from vpr.cli import feature_extract

if __name__ == "__main__":
    feature_extract()
