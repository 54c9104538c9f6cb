package speaker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// A fakeRegister counts the addresses of the states that it is given.
type fakeRegister struct {
	changed chan struct{}

	mu      sync.Mutex
	says    int
	away    bool
	slow    time.Duration
	looks   []time.Time
	written []time.Time
}

func (r *fakeRegister) Changed() <-chan struct{} { return r.changed }

func (r *fakeRegister) Write(ctx context.Context, s *State) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks = append(r.looks, time.Now())
	if r.slow > 0 {
		after := time.After(r.slow)
		r.mu.Unlock()
		defer r.mu.Lock()
		select {
		case <-after:
			return false, errors.New("late")
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	switch {
	case r.away:
		return false, errors.New("the API server is away")
	case r.says == len(s.Answers):
		return false, nil
	}
	r.says = len(s.Answers)
	r.written = append(r.written, time.Now())
	return true, nil
}

// pass lets time pass, and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// set changes how the register behaves.
func (r *fakeRegister) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// registering runs a Reporter on a virtual clock. Show makes the speaker answer
// for n addresses, stop ends it.
func registering(t *testing.T, members int, test func(r *fakeRegister, show func(n int), stop func())) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		r := &fakeRegister{changed: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			newReporter(b.state.Load, b.changed, nil, r, slog.New(slog.DiscardHandler), nil).Run(ctx)
		}()
		stop := func() { cancel(); <-done }
		defer stop()
		test(r, func(n int) {
			b.show(State{View: core.View{Answers: make([]core.Answer, n), Members: make([]election.Member, members)}})
		}, stop)
	})
}

func TestTheFirstNewsIsWrittenAtOnceAndTheRestOnceASecond(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), _ func()) {
		start := time.Now()
		for n := range 500 { // five seconds of churn
			show(1 + n/50)
			pass(10 * time.Millisecond)
		}
		pass(2 * time.Second)
		if len(r.written) < 4 || len(r.written) > 7 {
			t.Errorf("written %d times in 5 s", len(r.written))
		}
		if wait := r.written[0].Sub(start); wait > 3*share {
			t.Errorf("the first only after %v", wait)
		}
		for i := range r.written[1:] {
			if gap := r.written[i+1].Sub(r.written[i]); gap < breath {
				t.Errorf("two writes within %v", gap)
			}
		}
		if r.says != 10 {
			t.Errorf("it says %d in the end", r.says)
		}
	})
}

func TestWhatTheNodeAnswersForDoesNotWaitForItsTurn(t *testing.T) {
	registering(t, 1000, func(r *fakeRegister, show func(int), _ func()) {
		for n := range 20 {
			pass(time.Minute)
			show(n) // news of members, spread over ten seconds
			pass(lull / 2)
			start := time.Now()
			show(n + 1)
			pass(time.Millisecond)
			if r.says != n+1 || r.written[len(r.written)-1].Sub(start) > time.Millisecond {
				t.Errorf("it says %d, last written at %v, want %d at %v", r.says, r.written[len(r.written)-1], n+1, start)
			}
			if len(r.looks) != n+1 {
				t.Fatalf("%d writes, want one each time: %v", len(r.looks), r.looks)
			}
		}
	})
}

func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), _ func()) {
		show(2)
		pass(2 * time.Second)
		for range 10 {
			show(2)
			pass(2 * time.Second)
		}
		looks := len(r.looks)
		pass(24 * time.Hour)
		if len(r.written) != 1 || len(r.looks) != looks {
			t.Errorf("written %d times; looked %d times without news", len(r.written), len(r.looks)-looks)
		}
	})
}

func TestWhatAnotherHandChangedIsPutRight(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), _ func()) {
		show(2)
		pass(2 * time.Second)
		r.set(func() { r.says = 0 })
		poke(r.changed)
		pass(2 * time.Second)
		if r.says != 2 || len(r.written) != 2 {
			t.Errorf("it says %d after %d writes", r.says, len(r.written))
		}
	})
}

func TestWritingIsPatientWhileTheAPIServerIsAway(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), _ func()) {
		r.set(func() { r.away = true })
		show(1)
		for range 3600 {
			show(1) // news are no reason for haste
			pass(time.Second)
		}
		if n := len(r.looks); n < 30 || n > 70 {
			t.Errorf("%d attempts in an hour", n)
		}
		r.set(func() { r.away = false })
		pass(2 * time.Minute)
		if len(r.written) != 1 {
			t.Errorf("written %d times after its return", len(r.written))
		}
		// And as quick as ever from then on.
		show(2)
		pass(2 * time.Second)
		if r.says != 2 {
			t.Errorf("it says %d", r.says)
		}
	})
}

func TestAnAttemptIsBounded(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), _ func()) {
		r.set(func() { r.slow = time.Hour })
		show(1)
		pass(time.Minute)
		if len(r.looks) < 2 {
			t.Errorf("%d attempts in a minute in which none is answered", len(r.looks))
		}
		r.set(func() { r.slow = 0 })
		pass(2 * time.Minute)
		if r.says != 1 {
			t.Errorf("it says %d in the end", r.says)
		}
	})
}

func TestManyNodesTakeTurns(t *testing.T) {
	var first []time.Duration
	for range 50 {
		registering(t, 300, func(r *fakeRegister, show func(int), _ func()) {
			show(1)
			pass(5 * time.Second)
			start := time.Now()
			r.set(func() { r.says = 0 })
			poke(r.changed)
			pass(5 * time.Second)
			first = append(first, r.written[1].Sub(start))
		})
	}
	slices.Sort(first)
	if first[0] < lull || first[0] > time.Second || first[len(first)-1] < 2*time.Second || first[len(first)-1] > 3*time.Second+lull+share {
		t.Errorf("of 300 nodes, 50 write between %v and %v after what concerns all", first[0], first[len(first)-1])
	}
}

func TestASpeakerThatLeavesSaysSoLast(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), stop func()) {
		show(2)
		pass(2 * time.Second)
		show(0)
		stop()
		if r.says != 0 || len(r.written) != 2 {
			t.Errorf("it says %d after %d writes", r.says, len(r.written))
		}
	})
}

func TestLastWordsDoNotKeepASpeaker(t *testing.T) {
	registering(t, 3, func(r *fakeRegister, show func(int), stop func()) {
		show(2)
		pass(2 * time.Second)
		r.set(func() { r.slow = time.Hour })
		show(0)
		start := time.Now()
		stop()
		if took := time.Since(start); took > lastWords {
			t.Errorf("it took %v to stop", took)
		}
	})
}

func TestAStateShowsWhatTheSpeakerDoes(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		a := w.node("a")
		if a.speaker.State() != nil {
			t.Error("a state before anything is known")
		}
		w.cluster.edit(only("a"))
		w.start()
		select {
		case <-a.speaker.Stated():
		default:
			t.Error("the state changed, and nobody is told")
		}
		s := a.speaker.State()
		if len(s.Answers) != 2 || s.Answers[0].Address != v4 || len(s.Members) != 2 || len(s.Interfaces) != 3 || !s.Index.AdvertisesOn("a", "eth0") {
			t.Errorf("%+v", s)
		}
		a.link.set(func(i *lb.Interface) { i.Carrier = false })
		w.rest()
		if s := a.speaker.State(); len(s.Answers) != 0 || s.Interfaces[0].Carrier {
			t.Errorf("without carrier: %+v", s)
		}
		a.link.set(func(i *lb.Interface) { i.Carrier = true })
		w.rest()
		a.stop()
		<-a.done
		if s := a.speaker.State(); len(s.Answers) != 0 || len(s.Members) != 2 || len(s.Interfaces) != 3 {
			t.Errorf("after it left: %+v", s)
		}
	})
}
