"""The commands of `muxtable`, a module each, imported when one is called."""
