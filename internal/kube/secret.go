package kube

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// GossipKey is the key of the gossip Secret under which its text stands.
const GossipKey = "key"

// A GossipSecret keeps the Secret from which the speakers derive the key of their
// gossip. It is created once, and never changed: other speakers talk by it. What it
// says is remembered for as long as the process runs. Speakers that run have read
// it, and one that starts must read the same, so it is restored as it was when
// somebody deletes it.
type GossipSecret struct {
	namespace, name string
	client          *CoreClient
	log             *slog.Logger
	changed         chan struct{}

	mu     sync.Mutex
	table  *table[*corev1.Secret]
	mirror *mirrored
	// last is what it said last; nil while it was never seen.
	last *corev1.Secret
}

// NewGossipSecret returns a GossipSecret.
func NewGossipSecret(client *CoreClient, namespace, secret string, log *slog.Logger) *GossipSecret {
	g := &GossipSecret{namespace: namespace, name: secret, client: client, log: log, changed: make(chan struct{}, 1)}
	only := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, secret).String()
		return o
	}
	notify := func() {
		select {
		case g.changed <- struct{}{}:
		default:
		}
	}
	g.table, g.mirror = mirror(&g.mu, log, client.Secrets(namespace), only, lasting, func(_, is *row[*corev1.Secret]) {
		if is != nil {
			g.last = is.value
		}
		notify()
	}, notify)
	return g
}

// lasting is what of a Secret is restored.
func lasting(s *corev1.Secret) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, Annotations: s.Annotations},
		Immutable:  s.Immutable, Data: s.Data, Type: s.Type,
	}
}

// Run watches the Secret until ctx ends, so that what it says is known when it is
// deleted.
func (g *GossipSecret) Run(ctx context.Context) { g.mirror.run(ctx) }

// missing returns what to create, nil while the Secret is there, or it is not known
// whether it is.
func (g *GossipSecret) missing() (create *corev1.Secret, restored bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.table.full || g.table.rows[name{Namespace: g.namespace, Name: g.name}] != nil:
		return nil, false, nil
	case g.last != nil:
		return g.last.DeepCopy(), true, nil
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return nil, false, fmt.Errorf("random key: %w", err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: g.name},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{GossipKey: []byte(base64.StdEncoding.EncodeToString(random))},
	}, false, nil
}

// Attempts to create the Secret follow each other after these times, which double
// (docs/design/pacing.md).
const (
	secretRetry  = time.Second
	secretRarely = time.Minute
)

// Keep creates the Secret whenever it is missing, until ctx ends. One replica does at a
// time. What another hand creates meanwhile stands.
func (g *GossipSecret) Keep(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for pause := secretRetry; ; {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
		case <-retry.C:
		}
		secret, restored, err := g.missing()
		if secret == nil && err == nil {
			pause = secretRetry
			continue
		}
		if err == nil {
			_, err = g.client.Secrets(g.namespace).Create(ctx, secret, metav1.CreateOptions{})
		}
		switch {
		case apierrors.IsAlreadyExists(err) || ctx.Err() != nil:
		case err != nil:
			// The speakers wait for it; the Services need not.
			g.log.Warn("cannot create the gossip Secret", "err", err)
		case restored:
			g.log.Warn("gossip Secret was deleted: restored with the same key", "secret", g.name)
		default:
			g.log.Info("gossip Secret created", "secret", g.name)
		}
		// The watch tells when it is there. Until then it may be missing still.
		retry.Reset(pause)
		pause = min(2*pause, secretRarely)
	}
}
