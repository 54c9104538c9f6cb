package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LeaseTiming relates the durations on which having one leader rests. A leader
// stops writing Renew after it *started* its last successful renewal; another
// takes over Lease after it *saw* that renewal, which is never earlier. So
// Renew < Lease leaves a gap rather than an overlap, without comparing clocks
// between machines.
type LeaseTiming struct {
	// Lease is how long others wait after a renewal.
	Lease time.Duration
	// Renew is how long a leader goes on without a renewal.
	Renew time.Duration
	// Retry is the pause between attempts.
	Retry time.Duration
}

// Validate returns every reason why the durations do not fit together.
func (t LeaseTiming) Validate() error {
	var errs []error
	if t.Retry <= 0 {
		errs = append(errs, fmt.Errorf("retry period %v: must be positive", t.Retry))
	}
	// Those who wait stretch the retry period by up to a fifth.
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

// An Election makes one of several replicas the leader, by a Lease.
//
// It speaks the protocol of client-go's leaderelection, whose package would link
// all kinds of Kubernetes into every binary. It differs in when the Lease is
// given back: when the leader's work is over, not when it is asked to stop.
type Election struct {
	Client          *CoreClient
	Namespace, Name string
	// Identity tells the replicas apart. A replica that returns under its old
	// identity takes its Lease up again at once.
	Identity string
	Timing   LeaseTiming
	Log      *slog.Logger

	renewed atomic.Pointer[time.Time]

	// What follows belongs to the goroutine of Run.
	lease  *coordinationv1.Lease // as we wrote it last, nil when it must be read
	others string                // the version of the Lease that another was seen to hold
	seen   time.Time             // when it was first seen
}

// Held reports whether this replica is the leader beyond doubt: by its own
// clock, nobody can have taken over yet.
func (e *Election) Held() bool {
	at := e.renewed.Load()
	return at != nil && time.Since(*at) < e.Timing.Renew
}

// Run calls lead whenever this replica becomes the leader, with a context that
// ends when it ceases to be, and waits for it to return. When ctx ends, the
// Lease is given back, after lead has returned and not before: whoever takes
// over finds nobody writing.
//
// It returns when ctx has ended or lead has failed.
func (e *Election) Run(ctx context.Context, lead func(context.Context) error) error {
	for ctx.Err() == nil && e.await(ctx) {
		e.Log.Info("leading", "identity", e.Identity)
		err := e.term(ctx, lead)
		e.Log.Info("not leading any more", "identity", e.Identity)
		if err != nil {
			return err
		}
	}
	return nil
}

// await takes the Lease as soon as it can be had. It fails when ctx ends.
func (e *Election) await(ctx context.Context) bool {
	for {
		err := e.try(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil && !errors.Is(err, errAnother) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			e.Log.Warn("cannot get the lease", "err", err)
		}
		if !pauseFor(ctx, e.Timing.Retry+rand.N(e.Timing.Retry/5+1)) {
			return false
		}
	}
}

// term leads until lead returns or the Lease is lost.
func (e *Election) term(ctx context.Context, lead func(context.Context) error) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	led := make(chan error, 1)
	go func() { led <- lead(work) }()
	ctx = context.WithoutCancel(ctx) // renewals go on until lead has returned
	for {
		select {
		case err := <-led:
			e.release(ctx)
			return err
		case <-time.After(e.Timing.Retry):
		}
		err := e.try(ctx)
		switch {
		case err == nil:
		case e.Held() && !errors.Is(err, errAnother):
			e.Log.Warn("cannot renew the lease", "err", err)
		default:
			e.Log.Warn("the lease is lost", "err", err)
			e.renewed.Store(nil)
			cancel()
			return <-led
		}
	}
}

// errAnother says that another replica holds the Lease.
var errAnother = errors.New("another replica is the leader")

// try takes or renews the Lease, if no other holds it.
func (e *Election) try(ctx context.Context) error {
	began := time.Now()
	end := began.Add(e.Timing.Renew)
	if at := e.renewed.Load(); at != nil {
		end = at.Add(e.Timing.Renew) // what comes later is of no use
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	leases := e.Client.Leases(e.Namespace)
	last := e.lease
	if e.lease = nil; last == nil {
		found, err := leases.Get(ctx, e.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			made := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name}}
			e.sign(&made.Spec, began)
			written, err := leases.Create(ctx, made, metav1.CreateOptions{})
			return e.signed(written, err, began)
		case err != nil:
			return err
		case !e.free(found):
			return errAnother
		}
		last = found
	}
	next := last.DeepCopy()
	e.sign(&next.Spec, began)
	written, err := leases.Update(ctx, next, metav1.UpdateOptions{}) // refused if it has changed
	return e.signed(written, err, began)
}

// signed takes note of a Lease that was written.
func (e *Election) signed(written *coordinationv1.Lease, err error, began time.Time) error {
	if err != nil {
		return err
	}
	e.lease = written
	e.renewed.Store(&began)
	return nil
}

// free reports whether a Lease is nobody's, or ours, or has run out since it was
// first seen to be another's.
func (e *Election) free(l *coordinationv1.Lease) bool {
	holder := l.Spec.HolderIdentity
	if holder == nil || *holder == "" || *holder == e.Identity {
		return true
	}
	if now := time.Now(); e.others != l.ResourceVersion {
		e.others, e.seen = l.ResourceVersion, now
	}
	lasts := e.Timing.Lease
	if s := l.Spec.LeaseDurationSeconds; s != nil {
		lasts = time.Duration(*s) * time.Second
	}
	return time.Since(e.seen) >= lasts
}

// sign makes a Lease ours.
func (e *Election) sign(l *coordinationv1.LeaseSpec, now time.Time) {
	seconds := int32((e.Timing.Lease + time.Second - 1) / time.Second)
	at := metav1.NewMicroTime(now)
	if l.HolderIdentity == nil || *l.HolderIdentity != e.Identity {
		transitions := int32(0)
		if l.LeaseTransitions != nil {
			transitions = *l.LeaseTransitions + 1
		}
		l.HolderIdentity, l.AcquireTime, l.LeaseTransitions = &e.Identity, &at, &transitions
	}
	l.LeaseDurationSeconds, l.RenewTime = &seconds, &at
}

// release gives the Lease back, so that nobody has to wait for its end.
func (e *Election) release(ctx context.Context) {
	e.renewed.Store(nil) // before, not after
	last := e.lease
	if e.lease = nil; last == nil {
		return
	}
	next := last.DeepCopy()
	nobody, now := "", metav1.NewMicroTime(time.Now())
	next.Spec.HolderIdentity, next.Spec.RenewTime = &nobody, &now
	ctx, cancel := context.WithTimeout(ctx, e.Timing.Renew)
	defer cancel()
	if _, err := e.Client.Leases(e.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		e.Log.Warn("cannot give the lease back", "err", err)
	}
}

// pauseFor waits, and reports false when ctx ends.
func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
