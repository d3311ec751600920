"""Reports: what a record says, as rows (`tables`), sentences (`words`), figures and one page. Torch-free."""
