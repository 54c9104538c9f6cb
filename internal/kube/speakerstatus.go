package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
)

// NodeUID returns the UID of a Node, and whether there is such a Node.
func (c *Cluster) NodeUID(node string) (types.UID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.nodes.rows[name{Name: node}]
	if r == nil {
		return "", false
	}
	return r.uid, true
}

// A SpeakerStatus is the object of that kind that belongs to one node. It watches
// that object and no other, so that it is put right again, too, when another
// program deletes or changes it.
type SpeakerStatus struct {
	node    string
	own     *OwnClient
	owner   func(node string) (types.UID, bool)
	changed chan struct{}
	// requests holds the newest that is not answered yet.
	requests chan string

	mu     sync.Mutex
	table  *table[*v1beta1.SpeakerStatus]
	mirror *mirrored
}

// NewSpeakerStatus returns the SpeakerStatus of a node whose UID owner knows.
func NewSpeakerStatus(own *OwnClient, node string, owner func(node string) (types.UID, bool), log *slog.Logger) *SpeakerStatus {
	s := &SpeakerStatus{node: node, own: own, owner: owner, changed: make(chan struct{}, 1), requests: make(chan string, 1)}
	notify := s.Touch
	only := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, node).String()
		return o
	}
	s.table, s.mirror = mirror(&s.mu, log, own.SpeakerStatuses(), only, stripped, func(_, is *row[*v1beta1.SpeakerStatus]) {
		if is != nil {
			s.ask(is.value)
		}
		notify()
	}, notify)
	return s
}

// Run watches the object until ctx ends.
func (s *SpeakerStatus) Run(ctx context.Context) { s.mirror.run(ctx) }

// Changed delivers when the object has changed, or is known for the first time.
func (s *SpeakerStatus) Changed() <-chan struct{} { return s.changed }

// Touch has Changed deliver: what is to be written has changed.
func (s *SpeakerStatus) Touch() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// ask hands on what the object asks for, unless it says what came of that. It is called
// with mu held, so nobody else does.
func (s *SpeakerStatus) ask(o *v1beta1.SpeakerStatus) {
	request := o.Annotations[objects.AnnotationProbe]
	if request == "" || o.Status.Probe != nil && o.Status.Probe.Request == request {
		return
	}
	select {
	case <-s.requests:
	default:
	}
	s.requests <- request
}

// Requests delivers the newest request by annotation, until the status says what came
// of it; the same perhaps several times.
func (s *SpeakerStatus) Requests() <-chan string { return s.requests }

// Status returns what the object says, and whether that is known. It is nothing
// while there is no such object.
func (s *SpeakerStatus) Status() (status v1beta1.SpeakerStatusStatus, known bool) {
	o, known := s.object()
	if o != nil {
		status = o.Status
	}
	return status, known
}

// object returns the object, nil when there is none, and whether that is known.
func (s *SpeakerStatus) object() (*v1beta1.SpeakerStatus, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.table.rows[name{Name: s.node}]; r != nil {
		return r.value, true
	}
	return nil, s.table.full
}

// Write makes the object say want. It creates it when there is none, as soon as
// there is a Node to own it.
func (s *SpeakerStatus) Write(ctx context.Context, want v1beta1.SpeakerStatusStatus) (Outcome, error) {
	o, known := s.object()
	statuses := s.own.SpeakerStatuses()
	switch {
	case !known:
		return Stale, nil
	case o == nil:
		uid, ok := s.owner(s.node)
		if !ok {
			return Gone, fmt.Errorf("create speakerstatus %s: there is no Node of that name", s.node)
		}
		created, err := statuses.Create(ctx, &v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{
			Name:            s.node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: s.node, UID: uid}},
		}}, metav1.CreateOptions{})
		if err != nil {
			return classify(err), fmt.Errorf("create speakerstatus %s: %w", s.node, err)
		}
		o = created
		s.table.CatchUp([]any{created}, created.ResourceVersion)
	case equality.Semantic.DeepEqual(o.Status, want):
		return Unchanged, nil
	}
	// The whole is replaced: a merge would keep what is absent from it. The test
	// spares an object of the same name that took this one's place.
	body, err := json.Marshal([]object{
		{"op": "test", "path": "/metadata/uid", "value": o.UID},
		{"op": "add", "path": "/status", "value": want},
	})
	if err != nil {
		return Refused, fmt.Errorf("patch of speakerstatus %s: %w", s.node, err)
	}
	answer, err := statuses.Patch(ctx, s.node, types.JSONPatchType, body, metav1.PatchOptions{}, "status")
	if err != nil {
		return classify(err), fmt.Errorf("write speakerstatus %s: %w", s.node, err)
	}
	return Done, s.table.Answer(answer)
}
