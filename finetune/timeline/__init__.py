"""Own video to an emotion timeline.

cutting           files to pieces: utterances by voice, silences by shots
recognition       the extraction of training, then the recognizer
utterance         Utterance, Timeline
faces people      whose face each piece shows; who it is, by voice and face
files page strip  JSON, CSV, WebVTT; one HTML page
run               all of it
"""
