"""What each verb of the command line does, a file a verb."""
