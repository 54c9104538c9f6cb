package gobgp

func speakUntilKilled() {}
