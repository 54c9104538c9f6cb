// Package watchdog tells from outside whether a loop still turns.
//
// A caller asks, and the loop answers by taking the question in its
// select, as it takes any other event. So an idle loop needs no ticker, a busy one
// answers between two turns, and one that waits for ever for something else, or
// computes for ever, does not answer. No loop, no question: a controller that does
// not lead, or a speaker that has not read the cluster yet, cannot be stuck.
package watchdog

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// docs/design/pacing.md has the reasons.
const (
	// Patience is how long an answer may take. The longest turn there is, with ten
	// thousand Services, is a few hundred milliseconds; on a node that starves it
	// may be ten times that, and a process is not to be restarted for it.
	Patience = 10 * time.Second
	// fresh is how long an answer holds, so that a client that asks all the time does not
	// keep the loop from its work.
	fresh = time.Second
)

// A Watchdog asks one loop.
type Watchdog struct {
	what     string
	patience time.Duration
	asked    chan struct{}
	turn     chan struct{} // taken by the one who asks
	answered atomic.Pointer[time.Time]
	life     atomic.Pointer[chan struct{}] // closed when the loop ends
}

// New returns the Watchdog of a loop that does not run yet. What names it in errors;
// patience is how long an answer may take.
func New(what string, patience time.Duration) *Watchdog {
	return &Watchdog{what: what, patience: patience, asked: make(chan struct{}), turn: make(chan struct{}, 1)}
}

// Begin says that the loop runs, until end is called. One loop runs at a time.
func (w *Watchdog) Begin() (end func()) {
	life := make(chan struct{})
	w.life.Store(&life)
	return func() {
		w.life.CompareAndSwap(&life, nil)
		close(life)
	}
}

// Asked delivers the questions. To receive one is to answer it.
func (w *Watchdog) Asked() <-chan struct{} { return w.asked }

// Check asks, and returns an error if the loop runs and does not answer. It may be
// called from any goroutine.
func (w *Watchdog) Check(ctx context.Context) error {
	life := w.life.Load()
	if life == nil {
		return nil
	}
	timer := time.NewTimer(w.patience)
	defer timer.Stop()
	put := func(c chan<- struct{}) (taken bool, err error) {
		select {
		case c <- struct{}{}:
			return true, nil
		case <-*life:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-timer.C:
			return false, fmt.Errorf("%s has not turned for %s", w.what, w.patience)
		}
	}
	if ours, err := put(w.turn); !ours {
		return err
	}
	defer func() { <-w.turn }()
	if at := w.answered.Load(); at != nil && time.Since(*at) < fresh {
		return nil
	}
	answered, err := put(w.asked)
	if answered {
		w.answered.Store(new(time.Now()))
	}
	return err
}
