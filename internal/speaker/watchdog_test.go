package speaker

import (
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/watchdog"
)

func TestALoopThatHangsIsFoundOutAndAnIdleOneIsNot(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		a := w.node("a")
		alive := func(n *fakeNode) error { return n.speaker.cfg.Watchdog.Check(t.Context()) }
		if err := alive(a); err != nil {
			t.Errorf("before it has read the cluster: %v", err)
		}
		w.start()
		w.rest()
		time.Sleep(time.Hour)
		if err := alive(a); err != nil {
			t.Errorf("after an hour of rest: %v", err)
		}
		// It changes what it announces, and the link does not return.
		stuck := make(chan struct{})
		a.link.mu.Lock()
		a.link.stuck = stuck
		a.link.mu.Unlock()
		a.link.set(func(i *lb.Interface) { i.Carrier = false })
		time.Sleep(2 * time.Second)
		asked := time.Now()
		if alive(a) == nil {
			t.Error("it hangs, and says that all is well")
		}
		if took := time.Since(asked); took != watchdog.Patience {
			t.Errorf("that took %s", took)
		}
		if err := alive(w.node("b")); err != nil {
			t.Errorf("another node: %v", err)
		}
		a.link.mu.Lock()
		a.link.stuck = nil
		a.link.mu.Unlock()
		close(stuck)
		if err := alive(a); err != nil {
			t.Errorf("when it goes on: %v", err)
		}
	})
}
