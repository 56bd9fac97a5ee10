"""What every plane's benchmarks share: servers, load drivers, figures, reports."""
