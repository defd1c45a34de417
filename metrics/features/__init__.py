"""From images to what metrics compute with: `samples` gathers it, everything else here serves `samples`."""
