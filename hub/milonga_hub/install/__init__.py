"""How the agent gets onto devices: its wheels, wheelhouses for devices without internet, and the script that installs."""
