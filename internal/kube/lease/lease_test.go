package lease_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/kube/apitest"
	"github.com/belfrylb/belfry/internal/kube/lease"
)

var timing = lease.Timing{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}

// A room is where replicas compete for a Lease, in virtual time.
type room struct {
	*testing.T
	api     *apitest.Server
	leading atomic.Int32
}

func inRoom(t *testing.T, test func(*room)) {
	synctest.Test(t, func(t *testing.T) { test(&room{T: t, api: apitest.New()}) })
}

// A replica competes until it is stopped.
type replica struct {
	*lease.Election
	room *room
	// cut is set while the API server does not answer it.
	cut  atomic.Bool
	stop context.CancelFunc
	// began and ended are when its terms did; linger is how long its last write takes.
	mu           sync.Mutex
	began, ended []time.Time
	linger       time.Duration
	done         chan error
}

// RoundTrip is how a replica reaches the API server: it waits for ever while it is cut off.
func (r *replica) RoundTrip(q *http.Request) (*http.Response, error) {
	if r.cut.Load() {
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	return r.room.api.RoundTrip(q)
}

func (r *room) replica(identity string, edit ...func(*replica)) *replica {
	r.Helper()
	a := &replica{room: r, done: make(chan error, 1)}
	config := r.api.Config()
	config.Transport = a
	clients, err := kube.NewClients(config, "test")
	if err != nil {
		r.Fatal(err)
	}
	a.Election = &lease.Election{
		Client: clients.Core.Leases("belfry-system"), Namespace: "belfry-system", Name: "belfry-controller",
		Identity: identity, Timing: timing, Log: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(a)
	}
	ctx, cancel := context.WithCancel(r.Context())
	a.stop = cancel
	go func() { a.done <- a.Run(ctx, a.lead) }()
	r.Cleanup(func() {
		cancel()
		if err := <-a.done; err != nil {
			r.Errorf("%s: %v", identity, err)
		}
	})
	synctest.Wait()
	return a
}

func (a *replica) lead(ctx context.Context) error {
	if a.room.leading.Add(1) > 1 {
		a.room.Error("two lead at once")
	}
	if !a.Held() {
		a.room.Errorf("%s leads and does not hold the Lease", a.Identity)
	}
	a.mu.Lock()
	a.began = append(a.began, time.Now())
	a.mu.Unlock()
	<-ctx.Done()
	time.Sleep(a.linger)
	a.room.leading.Add(-1)
	a.mu.Lock()
	a.ended = append(a.ended, time.Now())
	a.mu.Unlock()
	return nil
}

// terms returns how many terms of a replica have begun and ended.
func (a *replica) terms() (began, ended int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.began), len(a.ended)
}

func (a *replica) mustLead(is bool) {
	a.room.Helper()
	if began, ended := a.terms(); (began > ended) != is || a.Held() != is {
		a.room.Errorf("%s has begun %d terms, ended %d, and holds the Lease: %v; leads should be %v", a.Identity, began, ended, a.Held(), is)
	}
}

func (r *room) passes(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

func (r *room) lease() *coordination.Lease {
	r.Helper()
	l, ok := apitest.Get(r.api, &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "belfry-system", Name: "belfry-controller"}})
	if !ok {
		r.Fatal("there is no Lease")
	}
	return l
}

// held puts a Lease that another program holds.
func (r *room) held(by string, seconds int32, renewed time.Time) {
	at := metav1.NewMicroTime(renewed)
	apitest.Put(r.api, &coordination.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "belfry-system", Name: "belfry-controller"},
		Spec:       coordination.LeaseSpec{HolderIdentity: &by, LeaseDurationSeconds: &seconds, RenewTime: &at},
	})
}

func TestOneReplicaLeadsAndTheOtherFollowsWhenItIsStopped(t *testing.T) {
	inRoom(t, func(r *room) {
		a := r.replica("a", func(a *replica) { a.linger = time.Minute })
		b := r.replica("b")
		r.passes(time.Minute)
		a.mustLead(true)
		b.mustLead(false)
		a.stop()
		// Its last write takes a minute: until then the Lease is renewed.
		r.passes(59 * time.Second)
		if began, _ := b.terms(); began > 0 {
			t.Fatal("the successor leads while the leader still works")
		}
		r.passes(time.Second + 2*timing.Retry)
		a.mustLead(false)
		b.mustLead(true)
		if l := r.lease(); *l.Spec.HolderIdentity != "b" || *l.Spec.LeaseTransitions != 1 || *l.Spec.LeaseDurationSeconds != 15 {
			t.Errorf("the Lease says %+v", l.Spec)
		}
	})
}

func TestLeaderThatIsCutOffStopsBeforeAnotherMayStart(t *testing.T) {
	inRoom(t, func(r *room) {
		a, b := r.replica("a"), r.replica("b")
		r.passes(time.Minute)
		renewed := r.lease().Spec.RenewTime.Time
		a.cut.Store(true)
		r.passes(time.Until(renewed.Add(timing.Renew - time.Millisecond)))
		a.mustLead(true)
		r.passes(time.Millisecond)
		a.mustLead(false)
		r.passes(timing.Lease + 2*timing.Retry)
		b.mustLead(true)
		if gap := b.began[0].Sub(a.ended[0]); gap < timing.Lease-timing.Renew {
			t.Errorf("the next leader started %v after the last one ended, want %v at least", gap, timing.Lease-timing.Renew)
		}
		// It comes back to find that another leads.
		a.cut.Store(false)
		r.passes(time.Minute)
		a.mustLead(false)
		b.mustLead(true)
	})
}

func TestLeaderGoesOnThroughAShortSilence(t *testing.T) {
	inRoom(t, func(r *room) {
		a := r.replica("a")
		r.passes(time.Minute)
		var refused atomic.Int32
		r.api.Before(func(apitest.Write) *metav1.Status {
			if refused.Add(1) <= 3 {
				return apitest.Refusal(http.StatusInternalServerError, metav1.StatusReasonInternalError)
			}
			return nil
		})
		r.passes(time.Minute)
		a.mustLead(true)
		if began, _ := a.terms(); began != 1 || refused.Load() < 3 {
			t.Errorf("%d terms, %d refusals", began, refused.Load())
		}
	})
}

// The times in the Lease are another machine's.
func TestLeaseOfADeadLeaderIsTakenWhenItHasBeenSeenForItsWholeDuration(t *testing.T) {
	for _, skew := range []time.Duration{-24 * time.Hour, 0, 24 * time.Hour} {
		inRoom(t, func(r *room) {
			r.held("dead", 40, time.Now().Add(skew))
			a := r.replica("a")
			r.passes(40*time.Second - time.Millisecond)
			a.mustLead(false)
			r.passes(2 * timing.Retry)
			a.mustLead(true)
		})
	}
}

func TestLeaseThatIsRenewedIsNotTaken(t *testing.T) {
	inRoom(t, func(r *room) {
		a := r.replica("a", func(*replica) { r.held("other", 15, time.Now()) })
		for range 30 {
			r.passes(10 * time.Second)
			r.held("other", 15, time.Now())
		}
		if began, _ := a.terms(); began > 0 {
			t.Error("a replica leads while another renews")
		}
	})
}

func TestReplicaThatReturnsTakesItsOwnLeaseUpAtOnce(t *testing.T) {
	inRoom(t, func(r *room) {
		r.held("a", 15, time.Now())
		r.replica("a").mustLead(true)
		if n := r.lease().Spec.LeaseTransitions; n == nil || *n != 0 {
			t.Errorf("transitions: %v", n)
		}
	})
}

func TestLeaderWhoseLeaseAnotherHasStopsAtItsNextRenewal(t *testing.T) {
	inRoom(t, func(r *room) {
		a := r.replica("a")
		r.passes(time.Minute)
		r.held("other", 15, time.Now())
		r.passes(timing.Retry)
		a.mustLead(false)
		if l := r.lease(); *l.Spec.HolderIdentity != "other" {
			t.Errorf("the Lease is held by %s", *l.Spec.HolderIdentity)
		}
	})
}

func TestLeaseThatIsDeletedIsMadeAnewByItsLeader(t *testing.T) {
	inRoom(t, func(r *room) {
		a := r.replica("a")
		r.passes(time.Minute)
		r.api.Delete(r.lease())
		r.passes(timing.Retry)
		a.mustLead(true)
		if began, _ := a.terms(); began != 1 || *r.lease().Spec.HolderIdentity != "a" {
			t.Errorf("%d terms; the Lease says %+v", began, r.lease().Spec)
		}
	})
}

func TestLeaseNamesNoShorterTimeThanWasAskedFor(t *testing.T) {
	inRoom(t, func(r *room) {
		r.replica("a", func(a *replica) { a.Timing.Lease = 15*time.Second + time.Millisecond })
		if n := *r.lease().Spec.LeaseDurationSeconds; n != 16 {
			t.Errorf("others are told %d s", n)
		}
	})
}

func TestLeaseIsGivenBackWhenTheWorkFails(t *testing.T) {
	inRoom(t, func(r *room) {
		a := r.replica("a")
		a.stop()
		synctest.Wait()
		failed := errors.New("failed")
		if err := a.Run(r.Context(), func(context.Context) error { return failed }); !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		if l := r.lease(); l.Spec.HolderIdentity != nil || a.Held() {
			t.Errorf("the Lease is held: %+v", l.Spec)
		}
	})
}
