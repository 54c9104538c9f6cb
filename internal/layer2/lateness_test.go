package layer2

import (
	"testing"
	"time"
)

func TestASegmentIsAskedForAsLongAsItsAnswersLatelyTook(t *testing.T) {
	const ms = time.Millisecond
	start := time.Unix(1000, 0)
	type sample struct{ at, late time.Duration }
	for _, c := range []struct {
		name    string
		answers []sample
		at      time.Duration
		want    time.Duration
	}{
		{"nothing heard", nil, 0, 60 * ms},
		{"all at once", []sample{{0, ms / 10}, {time.Second, ms}}, 2 * time.Second, 40 * ms},
		{"just prompt enough", []sample{{0, 10 * ms}}, time.Second, 40 * ms},
		{"one late among many", []sample{{0, ms}, {time.Second, 11 * ms}, {2 * time.Second, ms}}, 3 * time.Second, 60 * ms},
		{"late by as much as the window", []sample{{0, 60 * ms}}, time.Second, 120 * ms},
		{"Wi-Fi that sleeps", []sample{{0, 2 * ms}, {time.Second, 180 * ms}}, time.Second, 360 * ms},
		{"very late", []sample{{0, time.Second}}, time.Second, 550 * ms},
		{"late a minute ago", []sample{{0, 180 * ms}, {59 * time.Second, ms}}, time.Minute, 40 * ms},
		{"all of it a minute ago", []sample{{0, ms}}, time.Minute, 60 * ms},
	} {
		var l Lateness
		for _, a := range c.answers {
			l.Add(start.Add(a.at), a.late)
		}
		if w := l.Window(start.Add(c.at)); w.Whole() != c.want || w.Questions != 6 {
			t.Errorf("%s: %+v, which takes %v; want 6 questions in %v", c.name, w, w.Whole(), c.want)
		}
	}
}

// Whatever the lateness, each question has more time for its answer than an answer
// that counts as prompt takes, and no window outlasts a suspicion.
func TestEachQuestionHasTimeForItsAnswer(t *testing.T) {
	start := time.Unix(1000, 0)
	for late := time.Duration(0); late <= 2*time.Second; late += time.Millisecond {
		var l Lateness
		l.Add(start, late)
		w := l.Window(start)
		if w.Last < min(late, 500*time.Millisecond) && w.Whole() < 2*late && w.Last != longestLast || w.Whole() > 600*time.Millisecond {
			t.Fatalf("answers %v late: %+v", late, w)
		}
		if late <= prompt && w.Last <= late {
			t.Fatalf("answers %v late are prompt, and the last question waits %v", late, w.Last)
		}
	}
}

func TestOnlySoManyAnswersAreRemembered(t *testing.T) {
	start := time.Unix(1000, 0)
	var l Lateness
	l.Add(start, time.Second)
	for range remembered - 1 {
		l.Add(start, time.Millisecond)
	}
	if w := l.Window(start); w.Whole() != 550*time.Millisecond {
		t.Errorf("the last of those that are remembered counts for nothing: %v", w.Whole())
	}
	l.Add(start, time.Millisecond)
	if w := l.Window(start); w.Whole() != 40*time.Millisecond {
		t.Errorf("%v", w.Whole())
	}
}
