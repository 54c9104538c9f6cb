package kube

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/objects"
)

// A GossipSecret keeps the Secret from which the speakers derive the keys of their
// gossip: it creates it, restores it when somebody deletes it, and takes the steps by
// which one key takes the place of another. What the Secret said is remembered for as
// long as the process runs.
type GossipSecret struct {
	namespace, name string
	client          *CoreClient
	events          *Recorder
	log             *slog.Logger
	changed         chan struct{}

	mu     sync.Mutex
	table  *table[*corev1.Secret]
	mirror *mirrored
	// last is what it said last; nil while it was never seen.
	last *corev1.Secret
	// texts are those of the keys that it had since a change ended last.
	texts map[gossipkey.ID][]byte
	// speakers are what is known of the speakers; nil while that is nothing.
	speakers []gossipkey.Speaker
}

// NewGossipSecret returns a GossipSecret. Events may be nil.
func NewGossipSecret(client *CoreClient, namespace, secret string, events *Recorder, log *slog.Logger) *GossipSecret {
	g := &GossipSecret{
		namespace: namespace, name: secret, client: client, events: events, log: log, changed: make(chan struct{}, 1),
		texts: map[gossipkey.ID][]byte{},
	}
	g.table, g.mirror = mirrorGossip(&g.mu, client, namespace, secret, log, func(is *row[*corev1.Secret]) {
		if is != nil {
			g.remember(is.value)
		}
	}, g.changed)
	return g
}

// remember keeps what the Secret says; mu is held.
func (g *GossipSecret) remember(s *corev1.Secret) {
	g.last = s
	for _, text := range s.Data {
		if k, err := gossipkey.Of(text); err == nil {
			g.texts[k.ID()] = text
		}
	}
}

// Run watches the Secret until ctx ends, so that what it says is known when it is
// deleted.
func (g *GossipSecret) Run(ctx context.Context) { g.mirror.run(ctx) }

// SetSpeakers replaces what is known of the speakers. It does not wait.
func (g *GossipSecret) SetSpeakers(speakers []gossipkey.Speaker) {
	g.mu.Lock()
	g.speakers = append([]gossipkey.Speaker{}, speakers...)
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// Attempts to write the Secret follow each other after these times, which double
// (docs/design/pacing.md).
const (
	secretRetry  = time.Second
	secretRarely = time.Minute
)

// waitPatience is how long a change waits for a speaker until that is told, and told again
// (docs/design/gossip-keys.md).
const waitPatience = 30 * time.Second

// Reasons of Events about the gossip Secret.
const (
	eventRotating = "GossipKeyChanging"
	eventRotated  = "GossipKeyChanged"
	eventWaiting  = "GossipKeyWaits"
)

// A keeper is one term of keeping the Secret.
type keeper struct {
	*GossipSecret
	rotation gossipkey.Rotation
	// waits are whom the next step waits for, since when, and said whether that was told.
	waits []gossipkey.Wait
	since time.Time
	said  bool
	fault string
}

// Keep keeps the Secret until ctx ends. One replica does at a time. What another hand
// creates meanwhile stands.
func (g *GossipSecret) Keep(ctx context.Context) {
	k := &keeper{GossipSecret: g}
	retry := time.NewTimer(0)
	defer retry.Stop()
	for pause := secretRetry; ; {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
		case <-retry.C:
		}
		again, wrote, err := k.step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// The speakers wait for it; the Services need not.
			g.log.Warn("cannot write the gossip Secret", "err", err)
			fallthrough
		case wrote:
			// The watch tells what became of it. Until then it may be as it was.
			retry.Reset(pause)
			pause = min(2*pause, secretRarely)
		default:
			pause = secretRetry
			if !again.IsZero() {
				retry.Reset(max(time.Until(again), 0))
			}
		}
	}
}

// step does what is next, and says when to look again though nothing has changed.
func (k *keeper) step(ctx context.Context) (again time.Time, wrote bool, err error) {
	k.mu.Lock()
	full, known, speakers := k.table.full, k.speakers != nil, k.speakers
	r := k.table.rows[name{Namespace: k.namespace, Name: k.name}]
	var last *corev1.Secret
	if k.last != nil {
		last = k.last.DeepCopy()
	}
	var remembered []gossipkey.ID
	for id := range k.texts {
		remembered = append(remembered, id)
	}
	k.mu.Unlock()
	switch {
	case !full:
		return again, false, nil
	case r == nil && last != nil:
		return again, true, k.restore(ctx, last)
	case !known:
		return again, false, nil
	}
	is := gossipkey.State{}
	if r != nil {
		if is, err = objects.GossipSecret(r.value); err != nil {
			if k.fault != err.Error() {
				k.log.Warn("cannot use the gossip Secret: speakers go on with the keys that they have", "secret", k.name, "err", err)
				k.fault = err.Error()
			}
			return again, false, nil
		}
	}
	k.fault = ""
	is.Known = remembered
	now := time.Now()
	v := k.rotation.Decide(now, is, speakers)
	k.tell(now, r, &v)
	if v.Step == gossipkey.Stay {
		return v.Again, false, nil
	}
	return again, true, k.carryOut(ctx, r, is, v)
}

// restore creates the Secret anew as it was.
func (k *keeper) restore(ctx context.Context, last *corev1.Secret) error {
	last.UID, last.ResourceVersion = "", ""
	_, err := k.client.Secrets(k.namespace).Create(ctx, last, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		k.log.Warn("gossip Secret was deleted: restored with the same key", "secret", k.name)
	}
	return err
}

// carryOut takes a step.
func (k *keeper) carryOut(ctx context.Context, r *row[*corev1.Secret], is gossipkey.State, v gossipkey.Verdict) error {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return fmt.Errorf("random key: %w", err)
	}
	text := []byte(base64.StdEncoding.EncodeToString(random))
	fresh, err := gossipkey.Of(text)
	if err != nil {
		return err
	}
	k.mu.Lock()
	texts := map[gossipkey.ID][]byte{fresh.ID(): text}
	for id, t := range k.texts {
		texts[id] = t
	}
	k.mu.Unlock()
	var regained gossipkey.Key
	if t := texts[v.Regain]; t != nil {
		if regained, err = gossipkey.Of(t); err != nil {
			return err
		}
	}
	to := gossipkey.Apply(is, v, fresh, regained)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: k.name}, Type: corev1.SecretTypeOpaque}
	if r != nil {
		secret = r.value.DeepCopy()
	}
	objects.WriteGossipSecret(secret, to, texts)
	if r == nil {
		_, err = k.client.Secrets(k.namespace).Create(ctx, secret, metav1.CreateOptions{})
	} else {
		err = k.patch(ctx, r, secret)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil // The watch will show it.
	}
	if err != nil {
		return err
	}
	if v.Step == gossipkey.Create {
		k.log.Info("gossip Secret created", "secret", k.name)
		return nil
	}
	k.log.Info("gossip key changes", "secret", k.name, "reason", v.Step.String(), "key", to.Key.ID(), "also", to.Also().ID())
	switch v.Step {
	case gossipkey.Introduce:
		k.record(r, Event{Reason: eventRotating, Note: fmt.Sprintf("key %s follows %s as soon as all speakers accept it", to.Next, to.Key)})
	case gossipkey.Regain:
		k.record(r, Event{Warning: true, Reason: eventRotating, Note: fmt.Sprintf("the key was replaced by hand: speakers use %s until all accept %s", to.Key, to.Next)})
	case gossipkey.Bridge:
		k.record(r, Event{Warning: true, Reason: eventRotating, Note: fmt.Sprintf("speakers use a key of which no text is left: %s follows as soon as all of them accept it, and no speaker starts before", to.Next)})
	case gossipkey.Retire:
		k.mu.Lock()
		k.texts = map[gossipkey.ID][]byte{to.Key.ID(): texts[to.Key.ID()]}
		k.mu.Unlock()
		k.record(r, Event{Reason: eventRotated, Note: fmt.Sprintf("all speakers use key %s, and no other one is accepted", to.Key)})
	}
	return nil
}

// patch replaces what the Secret says, if it is still as it was seen.
func (k *keeper) patch(ctx context.Context, r *row[*corev1.Secret], to *corev1.Secret) error {
	annotations := map[string]any{}
	for name := range r.value.Annotations {
		annotations[name] = nil
	}
	for name, text := range to.Annotations {
		annotations[name] = text
	}
	data := map[string]any{}
	for name := range r.value.Data {
		data[name] = nil
	}
	for name, text := range to.Data {
		data[name] = text
	}
	body, err := json.Marshal(object{
		"metadata": object{"uid": r.uid, "resourceVersion": r.version, "annotations": annotations}, "data": data,
	})
	if err != nil {
		return err
	}
	answer, err := k.client.Secrets(k.namespace).Patch(ctx, k.name, types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil {
		return err
	}
	return k.table.Answer(answer)
}

// tell tells for whom a change waits, once that lasts.
func (k *keeper) tell(now time.Time, r *row[*corev1.Secret], v *gossipkey.Verdict) {
	switch {
	case len(v.Waits) == 0:
		k.waits, k.said = nil, false
		return
	case gossipkey.Describe(k.waits) != gossipkey.Describe(v.Waits):
		if k.waits == nil || k.said {
			k.since = now
		}
		k.waits, k.said = v.Waits, false
	}
	due := k.since.Add(waitPatience)
	switch {
	case k.said:
	case now.Before(due):
		if v.Again.IsZero() || due.Before(v.Again) {
			v.Again = due
		}
	default:
		k.said = true
		why := gossipkey.Describe(k.waits) + ": give them the API server, update them, or name their nodes in the annotation " + objects.AnnotationRotateWithout
		k.log.Warn("change of the gossip key waits for speakers", "secret", k.name, "reason", why)
		k.record(r, Event{Warning: true, Reason: eventWaiting, Note: why})
	}
}

// record records an Event about the Secret, if there is one.
func (k *keeper) record(r *row[*corev1.Secret], e Event) {
	if r == nil || k.events == nil {
		return
	}
	e.Action = "Rotate"
	e.About = corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: k.namespace, Name: k.name, UID: r.uid, ResourceVersion: r.version}
	k.events.Record(e)
}
