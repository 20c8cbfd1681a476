"""What people see of a result; one file a form."""
