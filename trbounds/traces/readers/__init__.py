"""One file per trace format; each holds one ``READER``. Found by listing this folder."""
