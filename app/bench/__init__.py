"""`slotwise bench`: a load-test client for any server that speaks the OpenAI API, known by its URL only."""
