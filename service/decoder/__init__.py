"""The process where untrusted media meets FFmpeg. Imports ipc and media alone."""
