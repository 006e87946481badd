"""What operators ask and do: gauges, explanations, imports, full resyncs, and their commands on customers."""
