// Package lease makes one of several replicas the leader, by a Lease of the Kubernetes
// API. It goes by the rules of client-go's leaderelection and shares Leases with it; why
// it is not that is in docs/design/lease.md.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	coordination "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Timing relates the durations on which having one leader rests. A leader
// stops writing Renew after it *started* its last successful renewal; another
// takes over Lease after it *saw* that renewal, which is never earlier. So
// Renew < Lease leaves a gap rather than an overlap, without comparing clocks
// between machines.
type Timing struct {
	// Lease is how long others wait after a renewal.
	Lease time.Duration
	// Renew is how long a leader goes on without a renewal.
	Renew time.Duration
	// Retry is the pause between attempts.
	Retry time.Duration
}

// Validate returns every reason why the durations do not fit together.
func (t Timing) Validate() error {
	var errs []error
	if t.Retry <= 0 {
		errs = append(errs, fmt.Errorf("retry period %v: must be positive", t.Retry))
	}
	// A second attempt must fit in.
	if t.Renew <= t.Retry*6/5 {
		errs = append(errs, fmt.Errorf("renew deadline %v: must be more than 1.2 times the retry period %v", t.Renew, t.Retry))
	}
	if t.Lease <= t.Renew {
		errs = append(errs, fmt.Errorf("lease duration %v: must be more than the renew deadline %v", t.Lease, t.Renew))
	}
	if t.Lease < time.Second {
		errs = append(errs, fmt.Errorf("lease duration %v: must be a second at least", t.Lease))
	}
	return errors.Join(errs...)
}

// A Client reads and writes the Leases of one namespace.
type Client interface {
	Get(context.Context, string, metav1.GetOptions) (*coordination.Lease, error)
	Create(context.Context, *coordination.Lease, metav1.CreateOptions) (*coordination.Lease, error)
	Update(context.Context, *coordination.Lease, metav1.UpdateOptions) (*coordination.Lease, error)
}

// An Election makes one of several replicas the leader, by a Lease.
type Election struct {
	Client          Client
	Namespace, Name string
	// Identity tells the replicas apart. A replica that returns under its old
	// identity takes its Lease up again at once.
	Identity string
	Timing   Timing
	Log      *slog.Logger

	// renewed is when the last successful renewal was started; nil: this replica is not
	// the leader.
	renewed atomic.Pointer[time.Time]
	// seen and failing belong to the goroutine of Run. Failing is set while attempts fail.
	seen    sighting
	failing bool
}

// Held reports whether this replica is the leader beyond doubt: by its own
// clock, no other can have taken over yet.
func (e *Election) Held() bool {
	at := e.renewed.Load()
	return at != nil && time.Since(*at) < e.Timing.Renew
}

// Run calls lead whenever this replica becomes the leader, with a context that
// ends when it ceases to be, and waits for it to return. When ctx ends, the
// Lease is given back, after lead has returned and not before: the next leader
// finds no other writing.
//
// It returns when ctx has ended or lead has failed.
func (e *Election) Run(ctx context.Context, lead func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := e.term(ctx, lead); err != nil {
			return err
		}
	}
	return nil
}

// term waits for the Lease, leads, and returns when it is lost or given back.
func (e *Election) term(ctx context.Context, lead func(context.Context) error) error {
	if !e.acquire(ctx) {
		return nil
	}
	e.Log.Info("became leader", "identity", e.Identity)
	work, end := context.WithCancel(ctx)
	defer end()
	// The Lease is renewed until lead has returned, however long ctx has ended.
	until, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	led := make(chan error, 1)
	go func() {
		defer resign()
		led <- lead(work)
	}()
	e.keep(until)
	end()
	err := <-led
	e.release(ctx)
	e.Log.Info("leadership ended", "identity", e.Identity)
	return err
}

// acquire tries until this replica has the Lease; false: ctx has ended.
func (e *Election) acquire(ctx context.Context) bool {
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, e.Timing.Renew)
		held, err := e.try(attempt)
		cancel()
		if e.tell(ctx, err); held {
			return true
		}
		pause(ctx, e.Timing.Retry+rand.N(e.Timing.Retry)) // replicas do not all ask at once
	}
	return false
}

// keep renews the Lease until it is lost or ctx ends.
func (e *Election) keep(ctx context.Context) {
	for e.Held() {
		fence := e.renewed.Load().Add(e.Timing.Renew)
		if pause(ctx, min(e.Timing.Retry, time.Until(fence))); ctx.Err() != nil {
			return
		}
		attempt, cancel := context.WithDeadline(ctx, fence)
		_, err := e.try(attempt)
		cancel()
		e.tell(ctx, err)
	}
}

// try gets or renews the Lease, and reports whether this replica holds it then. Without
// an error another holds it.
func (e *Election) try(ctx context.Context) (held bool, err error) {
	// A leader knows what the Lease says, unless another has changed it.
	for known := e.Held(); ; known = false {
		began := time.Now()
		if !known {
			l, err := e.Client.Get(ctx, e.Name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				l = &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name}}
			case err != nil:
				return false, fmt.Errorf("read lease %s/%s: %w", e.Namespace, e.Name, err)
			}
			if e.seen.note(l, time.Now()); !e.seen.free(e.Identity, e.Timing.Lease, time.Now()) {
				e.renewed.Store(nil)
				return false, nil
			}
			began = time.Now()
		}
		l, err := e.write(ctx, e.seen.claim(e.Identity, e.Timing.Lease, began))
		overtaken := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
		switch {
		case err == nil:
			e.seen.note(l, time.Now())
			e.renewed.Store(&began)
			return true, nil
		case overtaken && known:
		case overtaken:
			return false, nil
		default:
			return false, fmt.Errorf("write lease %s/%s: %w", e.Namespace, e.Name, err)
		}
	}
}

// write stores a Lease if it still is the version that was read, or if there still is none.
func (e *Election) write(ctx context.Context, l *coordination.Lease) (*coordination.Lease, error) {
	if l.ResourceVersion == "" {
		return e.Client.Create(ctx, l, metav1.CreateOptions{})
	}
	return e.Client.Update(ctx, l, metav1.UpdateOptions{})
}

// release gives the Lease back, unless another has it.
func (e *Election) release(ctx context.Context) {
	if e.renewed.Swap(nil) == nil { // first of all: nothing is written any more
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.Timing.Renew)
	defer cancel()
	_, err := e.write(ctx, e.seen.released(time.Now()))
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		e.Log.Warn("cannot give the Lease back: other replicas wait until it expires", "err", err)
	}
}

// tell logs the first of several attempts that fail, and the first that does not.
func (e *Election) tell(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && !e.failing:
		e.failing = true
		e.Log.Warn("cannot get or renew the Lease", "err", err)
	case err == nil && e.failing:
		e.failing = false
		e.Log.Info("Lease can be read and written again")
	}
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// A sighting is a Lease as it was seen last, and since when it says the same, by one's
// own clock: the times that stand in it are others'.
type sighting struct {
	lease *coordination.Lease
	since time.Time
}

// note takes note of what the Lease says.
func (s *sighting) note(l *coordination.Lease, now time.Time) {
	if s.lease == nil || !equality.Semantic.DeepEqual(s.lease.Spec, l.Spec) {
		s.since = now
	}
	s.lease = l
}

func (s *sighting) holder() string {
	if h := s.lease.Spec.HolderIdentity; h != nil {
		return *h
	}
	return ""
}

// free reports whether a replica may take the Lease: it holds it, nobody does, or
// whoever does has not renewed it for as long as the Lease says, or else for usual.
func (s *sighting) free(identity string, usual time.Duration, now time.Time) bool {
	if h := s.holder(); h == "" || h == identity {
		return true
	}
	if seconds := s.lease.Spec.LeaseDurationSeconds; seconds != nil {
		usual = time.Duration(*seconds) * time.Second
	}
	return now.Sub(s.since) >= usual
}

// claim is the Lease as its next holder writes it. What is no whole number of seconds is
// rounded up, so that nobody takes over early.
func (s *sighting) claim(identity string, lasts time.Duration, now time.Time) *coordination.Lease {
	l := s.lease.DeepCopy()
	at := metav1.NewMicroTime(now)
	transitions := int32(0)
	if l.Spec.LeaseTransitions != nil {
		transitions = *l.Spec.LeaseTransitions
	}
	if s.holder() != identity {
		l.Spec.AcquireTime = &at
		if l.ResourceVersion != "" {
			transitions++
		}
	}
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseTransitions = &identity, &at, &transitions
	l.Spec.LeaseDurationSeconds = new(int32((lasts + time.Second - 1) / time.Second))
	return l
}

// released is the Lease as its holder leaves it.
func (s *sighting) released(now time.Time) *coordination.Lease {
	l := s.lease.DeepCopy()
	at := metav1.NewMicroTime(now)
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.AcquireTime = nil, &at, &at
	l.Spec.LeaseDurationSeconds = new(int32(1))
	return l
}
