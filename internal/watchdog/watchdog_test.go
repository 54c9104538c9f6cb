package watchdog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// A loop turns until stop is closed; hang makes it wait for release in a turn.
type loop struct {
	watchdog            *Watchdog
	hang, release, stop chan struct{}
	turns               int
}

func run(t *testing.T, p *Watchdog) *loop {
	t.Helper()
	l := &loop{watchdog: p, hang: make(chan struct{}), release: make(chan struct{}), stop: make(chan struct{})}
	var wg sync.WaitGroup
	begun := make(chan struct{})
	wg.Go(func() {
		defer p.Begin()()
		close(begun)
		for {
			select {
			case <-l.stop:
				return
			case <-p.Asked():
				l.turns++
			case <-l.hang:
				<-l.release
			}
		}
	})
	<-begun
	t.Cleanup(func() {
		select {
		case <-l.stop:
		default:
			close(l.stop)
		}
		wg.Wait()
	})
	return l
}

func TestAnIdleLoopAnswers(t *testing.T) {
	p := New("the loop", time.Minute)
	run(t, p)
	for range 3 {
		if err := p.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALoopThatHangsIsFoundOutAndRecovers(t *testing.T) {
	p := New("the loop", 50*time.Millisecond)
	l := run(t, p)
	l.hang <- struct{}{}
	for range 2 {
		if err := p.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "the loop has not turned for 50ms") {
			t.Errorf("while it hangs: %v", err)
		}
	}
	l.release <- struct{}{}
	p.patience = time.Minute
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("after it has recovered: %v", err)
	}
}

func TestWhoAsksWhileALoopIsBusyHasTheAnswerAfterwards(t *testing.T) {
	p := New("the loop", time.Minute)
	l := run(t, p)
	l.hang <- struct{}{}
	const askers = 5
	answers := make(chan error, askers)
	for range askers {
		go func() { answers <- p.Check(context.WithoutCancel(t.Context())) }()
	}
	l.release <- struct{}{}
	for range askers {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

func TestNoLoopIsNotStuck(t *testing.T) {
	p := New("the loop", time.Millisecond)
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("before it begins: %v", err)
	}
	l := run(t, p)
	close(l.stop)
	for deadline := time.Now().Add(20 * time.Second); p.life.Load() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the loop does not end")
		}
	}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("after it has ended: %v", err)
	}
}

func TestALoopThatEndsWhileItIsAskedIsNotStuck(t *testing.T) {
	p := New("the loop", time.Minute)
	end := p.Begin()
	answer := make(chan error)
	go func() { answer <- p.Check(context.WithoutCancel(t.Context())) }()
	for deadline := time.Now().Add(20 * time.Second); len(p.turn) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
	}
	end()
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

func TestWhoGoesAwayIsNotKept(t *testing.T) {
	p := New("the loop", time.Minute)
	defer p.Begin()() // a loop that never answers
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWhoAsksAllTheTimeDoesNotBusyTheLoop(t *testing.T) {
	p := New("the loop", time.Minute)
	l := run(t, p)
	begun := time.Now()
	for range 1000 {
		if err := p.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	most := 1 + int(time.Since(begun)/fresh)
	close(l.stop)
	for deadline := time.Now().Add(20 * time.Second); p.life.Load() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the loop does not end")
		}
	}
	if l.turns < 1 || l.turns > most {
		t.Errorf("a thousand questions made it turn %d times, want 1 to %d", l.turns, most)
	}
}
