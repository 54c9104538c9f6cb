package layer2

import "time"

// A Window is how a station is asked that may be gone: so many questions, so far
// apart, and how long to listen after the last one.
type Window struct {
	Questions   int
	Apart, Last time.Duration
}

// Whole is how long it takes without an answer.
func (w Window) Whole() time.Duration { return time.Duration(w.Questions-1)*w.Apart + w.Last }

// The windows, and what tells them apart (docs/design/confirmation.md, docs/design/detection.md). The number of
// questions is what stands loss: where one frame in twenty is lost each way, a
// question comes to nothing once in ten times, and all six once in a million. What
// the wait has to stand is answers that come late.
const (
	questions = 6
	// Where answers have lately come within prompt, each question leaves more than
	// that for its answer.
	prompt      = 10 * time.Millisecond
	shortApart  = 5 * time.Millisecond
	shortLast   = 15 * time.Millisecond
	longApart   = 10 * time.Millisecond
	longestLast = 500 * time.Millisecond
	// lately is how long an answer counts, and remembered how many do.
	lately     = time.Minute
	remembered = 64
)

// A Lateness is how late the answers of a segment have lately been. The zero value
// has heard none.
type Lateness struct {
	answers [remembered]answered
	next    int
}

type answered struct {
	at   time.Time
	late time.Duration
}

// Add takes note of an answer that came so long after its question.
func (l *Lateness) Add(at time.Time, late time.Duration) {
	l.answers[l.next] = answered{at, late}
	l.next = (l.next + 1) % remembered
}

// Window returns how to ask on the segment now. Where it is not known how late its
// answers are, the window is long; where they are later than that, it is twice as
// long as the latest took.
func (l *Lateness) Window(now time.Time) Window {
	worst, known := time.Duration(0), false
	for _, a := range l.answers {
		if now.Sub(a.at) < lately {
			worst, known = max(worst, a.late), true
		}
	}
	if known && worst <= prompt {
		return Window{questions, shortApart, shortLast}
	}
	return Window{questions, longApart, min(max(longApart, 2*worst-(questions-1)*longApart), longestLast)}
}
