// Package lease makes one of several replicas the leader, by a Lease, with
// client-go's leaderelection.
//
// It is a package of its own because leaderelection links every kind that
// Kubernetes has, which only the controller is to carry.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
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
	// client-go stretches the retry period by up to a fifth.
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

// NewClient makes a client of Leases, for a binary that calls itself userAgent.
func NewClient(config *rest.Config, userAgent string) (coordination.LeasesGetter, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = userAgent
	config.QPS = -1 // the elector paces itself
	return coordination.NewForConfig(config)
}

// An Election makes one of several replicas the leader, by a Lease.
type Election struct {
	Client          coordination.LeasesGetter
	Namespace, Name string
	// Identity tells the replicas apart. A replica that returns under its old
	// identity takes its Lease up again at once.
	Identity string
	Timing   Timing
	Log      *slog.Logger

	renewed atomic.Pointer[time.Time]
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
	// The elector must outlive ctx until lead has returned.
	elect, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	var (
		led     = make(chan error, 1)
		leading atomic.Bool
	)
	stop := context.AfterFunc(ctx, func() {
		if !leading.Load() {
			resign()
		}
	})
	defer stop()
	lock := &renewalLock{election: e, Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name},
		Client:     e.Client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
	}}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:            e.Name,
		Lock:            lock,
		LeaseDuration:   e.Timing.Lease,
		RenewDeadline:   e.Timing.Renew,
		RetryPeriod:     e.Timing.Retry,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				leading.Store(true)
				defer resign()
				work, cancel := context.WithCancel(held)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				e.Log.Info("became leader", "identity", e.Identity)
				led <- lead(work)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", e.Namespace, e.Name, err)
	}
	elector.Run(elect)
	e.renewed.Store(nil)
	if !lock.elected {
		return nil
	}
	err = <-led
	e.Log.Info("leadership ended", "identity", e.Identity)
	return err
}

// A renewalLock notes when successful renewals were started.
type renewalLock struct {
	resourcelock.Interface
	election *Election
	elected  bool // only the elector's goroutine sets and asks
}

// Create creates the Lease.
func (l *renewalLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.note(r, func() error { return l.Interface.Create(ctx, r) })
}

// Update renews, takes or releases the Lease.
func (l *renewalLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.note(r, func() error { return l.Interface.Update(ctx, r) })
}

func (l *renewalLock) note(r resourcelock.LeaderElectionRecord, write func() error) error {
	began := time.Now()
	if r.HolderIdentity != l.election.Identity {
		l.election.renewed.Store(nil) // released: stop before, not after
	}
	err := write()
	if err == nil && r.HolderIdentity == l.election.Identity {
		l.election.renewed.Store(&began)
		l.elected = true
	}
	return err
}
