package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/objects"
)

// GossipKeys are the keys of a speaker: it follows the gossip Secret.
type GossipKeys struct {
	namespace, name string
	client          *CoreClient
	log             *slog.Logger
	changed         chan struct{}

	// ring is what the speaker uses, and version that of the Secret which it follows.
	ring    gossipkey.Ring
	version string

	mu     sync.Mutex
	table  *table[*corev1.Secret]
	mirror *mirrored
}

// NewGossipKeys returns the keys that a Secret tells; none before Begin.
func NewGossipKeys(client *CoreClient, namespace, secret string, log *slog.Logger) *GossipKeys {
	g := &GossipKeys{namespace: namespace, name: secret, client: client, log: log, changed: make(chan struct{}, 1)}
	g.table, g.mirror = mirrorGossip(&g.mu, client, namespace, secret, log, func(*row[*corev1.Secret]) {}, g.changed)
	return g
}

// mirrorGossip watches the gossip Secret.
func mirrorGossip(mu *sync.Mutex, client *CoreClient, namespace, secret string, log *slog.Logger, seen func(*row[*corev1.Secret]), changed chan<- struct{}) (*table[*corev1.Secret], *mirrored) {
	only := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, secret).String()
		return o
	}
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	return mirror(mu, log, client.Secrets(namespace), only, lasting, func(_, is *row[*corev1.Secret]) {
		seen(is)
		notify()
	}, notify)
}

// lasting is what of a Secret is read and restored.
func lasting(s *corev1.Secret) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion, Labels: s.Labels, Annotations: s.Annotations},
		Immutable:  s.Immutable, Data: s.Data, Type: s.Type,
	}
}

// Begin waits until the speaker can begin, with a back-off, or ctx ends. Before each
// attempt idle is called: it tells others that the speaker uses no key yet.
func (g *GossipKeys) Begin(ctx context.Context, idle func(context.Context)) (gossipkey.Ring, gossipkey.Use, error) {
	said := ""
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		idle(ctx)
		ring, version, err := g.read(ctx)
		if err == nil {
			g.ring, g.version = ring, version
			return ring, ring.Use(version), nil
		}
		if text := err.Error(); ctx.Err() == nil && text != said {
			said = text
			g.log.Info("waiting for the gossip Secret", "err", err)
		}
		select {
		case <-ctx.Done():
			return ring, gossipkey.Use{}, fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// read asks the API server itself, not its cache: what the speaker begins with must not
// be older than what other speakers use.
func (g *GossipKeys) read(ctx context.Context) (gossipkey.Ring, string, error) {
	s, err := g.client.Secrets(g.namespace).Get(ctx, g.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return gossipkey.Ring{}, "", fmt.Errorf("secret %s/%s: the controller has not created it yet", g.namespace, g.name)
	}
	if err != nil {
		return gossipkey.Ring{}, "", fmt.Errorf("read secret %s/%s: %w", g.namespace, g.name, err)
	}
	is, err := objects.GossipSecret(s)
	if err != nil {
		return gossipkey.Ring{}, "", fmt.Errorf("secret %s/%s: %w", g.namespace, g.name, err)
	}
	ring, err := gossipkey.Begin(is.Secret)
	if err != nil {
		return gossipkey.Ring{}, "", fmt.Errorf("secret %s/%s: %w", g.namespace, g.name, err)
	}
	return ring, is.Version, nil
}

// Run follows the Secret until ctx ends. Use is called with what the speaker is to use,
// whenever the Secret has changed.
func (g *GossipKeys) Run(ctx context.Context, use func(gossipkey.Ring, gossipkey.Use)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { g.mirror.run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
		}
		g.mu.Lock()
		r := g.table.rows[name{Namespace: g.namespace, Name: g.name}]
		g.mu.Unlock()
		if r == nil || !newer(r.version, g.version) {
			continue // Deleted, or a list that is older than what Begin has read.
		}
		g.version = r.version
		is, err := objects.GossipSecret(r.value)
		if err != nil {
			g.log.Warn("cannot use the gossip Secret: the keys in use stay", "secret", g.name, "err", err)
			continue
		}
		if to := gossipkey.Follow(g.ring, is.Secret); to != g.ring {
			g.log.Info("gossip keys changed", "key", to.Send.ID(), "also", to.Also.ID())
			g.ring = to
		}
		use(g.ring, g.ring.Use(g.version))
	}
}
