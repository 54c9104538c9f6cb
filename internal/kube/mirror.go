package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// A need says whether a kind is waited for when it cannot be read; see [reading].
type need uint8

// Needs.
const (
	// optional kinds are waited for until it is clear that they cannot be read.
	optional need = iota
	// vital kinds are waited for when we may not read them.
	vital
	// incidental kinds are not waited for: nothing is done otherwise without them. Not
	// every API server that we work with has them.
	incidental
)

// A mirrored is one kind of objects and how a table is kept up to date with it.
type mirrored struct {
	mu *sync.Mutex
	reading
	resource string
	log      *slog.Logger
	// clear empties the table; settled hears that the reading has changed. For both
	// mu is held.
	clear, settled func()
	reflector      *cache.Reflector
	// due is when the server ends the watch that is open, by its own word; zero
	// before the first.
	due time.Time
}

// register makes the table of one kind, which Run then keeps up to date.
func register[T apiObject, L runtime.Object, V any](
	c *Cluster, n need, client Kind[T, L], only func(metav1.ListOptions) metav1.ListOptions,
	reduce func(T) V, changed func(was, is *row[V]),
) *table[V] {
	t, k := mirror(&c.mu, c.log, client, only, reduce, changed, c.settle)
	k.need = n
	k.read = n == incidental
	c.kinds = append(c.kinds, k)
	return t
}

// empty makes the table of a kind that does not concern us.
func empty[V any](c *Cluster, changed func(was, is *row[V])) *table[V] {
	return newTable(&c.mu, nil, changed, func() {})
}

// mirror makes the table of one kind and what keeps it up to date. A broken watch is
// resumed within seconds, however long the API server was away: addresses wait.
func mirror[T apiObject, L runtime.Object, V any](
	mu *sync.Mutex, log *slog.Logger, client Kind[T, L], only func(metav1.ListOptions) metav1.ListOptions,
	reduce func(T) V, changed func(was, is *row[V]), settled func(),
) (*table[V], *mirrored) {
	k := &mirrored{mu: mu, resource: client.resource, log: log, settled: settled}
	t := newTable(mu, as(reduce), changed, func() {
		k.listed()
		settled()
	})
	k.clear = t.clear
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l, err := client.List(ctx, only(o))
			if err != nil {
				k.met(err)
			}
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if err := k.check(ctx, o, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return client.List(ctx, only(o))
			}); err != nil {
				return nil, err
			}
			w, err := client.Watch(ctx, only(o))
			k.met(err)
			if err == nil && o.TimeoutSeconds != nil {
				k.due = time.Now().Add(time.Duration(*o.TimeoutSeconds) * time.Second)
			}
			return w, err
		},
	}
	k.reflector = cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, client.client), client.object(), t,
		cache.ReflectorOptions{Name: client.resource, Backoff: retries()})
	return t, k
}

// retries is how attempts to read follow each other.
func retries() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Cap: 3 * time.Second, Factor: 2, Jitter: 0.5, Steps: 10}
}

// run keeps the table up to date until ctx ends. What the reflector has to say of
// each attempt is left unsaid: a refusal is told once.
func (k *mirrored) run(ctx context.Context) {
	ctx = klog.NewContext(ctx, logr.Discard())
	_ = retries().DelayWithReset(clock.RealClock{}, time.Minute).Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		if err := k.reflector.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil {
			k.log.Debug("cannot read objects", "kind", k.resource, "err", err)
		}
		return false, nil
	})
}

// met takes note of what an attempt has met.
func (k *mirrored) met(err error) {
	k.mu.Lock()
	now := time.Now()
	k.reached(now, err == nil)
	do := k.tried(now, refusalOf(err))
	if do.Empty {
		k.clear()
	}
	k.settled()
	read, refused := k.read, k.refusal
	k.mu.Unlock()
	switch {
	case !do.Tell:
	case refused == readable:
		k.log.Info("objects can be read again", "kind", k.resource)
	case refused == missing && k.need == incidental:
		k.log.Debug("cannot read objects: there is no such kind", "kind", k.resource, "reason", refused.String(), "err", err)
	case refused == missing:
		k.log.Warn("cannot read objects: the kind does not exist, so there are none", "kind", k.resource, "reason", refused.String(), "err", err)
	case read:
		k.log.Warn("cannot read objects: those read before stay in force", "kind", k.resource, "reason", refused.String(), "err", err)
	default:
		k.log.Warn("cannot read objects: waiting for them", "kind", k.resource, "reason", refused.String(), "err", err)
	}
}

// punctual is how near to its announced end a watch must end to have been ended by
// it (docs/design/pacing.md).
const punctual = 5 * time.Second

// check makes sure, before a watch is resumed that ended out of its time, that the
// API server's history is the one we know. After etcd was restored from a backup,
// versions begin anew below the last one that we saw, and a watch from there would
// show nothing until they have caught up.
func (k *mirrored) check(ctx context.Context, o metav1.ListOptions, list func(context.Context, metav1.ListOptions) (runtime.Object, error)) error {
	if o.ResourceVersion == "" || k.due.IsZero() || time.Since(k.due).Abs() < punctual {
		return nil
	}
	l, err := list(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		k.met(err)
		return err
	}
	m, err := meta.ListAccessor(l)
	if err != nil {
		return err
	}
	if newer(o.ResourceVersion, m.GetResourceVersion()) {
		k.log.Warn("API server history was reset: reading all objects again", "kind", k.resource)
		return apierrors.NewResourceExpired(fmt.Sprintf("version %s is later than the latest, %s", o.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}
