"""The domain, pure: numpy, SimpleITK and pydicom data sets; no network, database, web, queue or torch."""
