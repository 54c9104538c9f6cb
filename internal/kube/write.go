package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/internal/lb"
)

// A ServiceWrite is what a Service is to carry of ours. The zero value, with
// Announced set, removes every trace.
type ServiceWrite struct {
	// Addresses go to status, and Pools, one for each, to our record and, for people,
	// to the annotation.
	Addresses []netip.Addr
	Pools     []string
	// Left are the addresses in status that are not ours. They stay while there are no
	// Addresses, and so does what is no address.
	Left []netip.Addr
	// Placed names the node where layer 2 places each address.
	Placed []string
	// Reallocated is the token to record as honored, and Moved what to record of the
	// last request to move.
	Reallocated string
	Moved       lb.Move
	// Terms are those to record as what it shares its addresses on.
	Terms string
	// Allocated is the condition; the zero Condition removes it.
	Allocated Condition
	// Announced likewise; nil leaves it as it is.
	Announced *Condition
}

// object is a part of a patch.
type object map[string]any

// patch returns what changes some parts of a Service into what it is to carry, and
// which of them differ from it.
func (s *Service) patch(w ServiceWrite, only Parts, now metav1.Time) (out object, changed Parts) {
	annotations := object{}
	annotate := func(key, have, want string) {
		switch {
		case have == want:
		case want == "":
			annotations[key] = nil
		default:
			annotations[key] = want
		}
	}
	annotate(AnnotationPool, s.poolShown, joinNames(w.Pools))
	annotate(AnnotationPlaced, s.placeShown, joinNames(w.Placed))

	status := object{}
	ingress, differs := ours(w.Addresses), !s.Exact || !slices.Equal(s.Assigned, w.Addresses)
	if len(w.Addresses) == 0 {
		ingress, differs = s.stays(w.Left)
	}
	if changed.add(PartIngress, differs && only.Has(PartIngress)) {
		status["loadBalancer"] = object{"ingress": ingress}
	}
	var conditions []any
	set := func(p Part, t ConditionType, have, want Condition) {
		if c := conditionPatch(t, have, want, now); changed.add(p, c != nil && only.Has(p)) {
			conditions = append(conditions, c)
		}
	}
	set(PartRecords, ConditionAllocated, s.Allocated, w.Allocated)
	set(PartRecords, ConditionRecorded, s.recorded, w.record(s.us))
	set(PartRecords, ConditionReallocated, s.reallocated, fact(honored, w.Reallocated))
	set(PartRecords, ConditionPlaced, s.placed, fact("Recorded", pairs(w.Addresses, recordOn, w.Placed)))
	set(PartRecords, ConditionMoved, s.moved, answer(w.Moved))
	set(PartRecords, ConditionSharing, s.sharing, sharing(w.Terms))
	if w.Announced != nil {
		set(PartAnnounced, ConditionAnnounced, s.Announced, *w.Announced)
	}
	if conditions != nil {
		status["conditions"] = conditions
	}

	metadata := object{"uid": s.UID, "resourceVersion": s.Version}
	if changed.add(PartAnnotations, len(annotations) > 0 && only.Has(PartAnnotations)) {
		metadata["annotations"] = annotations
	}
	out = object{"metadata": metadata}
	if len(status) > 0 {
		out["status"] = status
	}
	return out, changed
}

// maxMessage is how many bytes of a condition's message are written, as of an
// Event's note, whose limit is the API's. With it, however JSON spells its
// characters, no write of a Service exceeds 16 KiB (docs/design/bounds.md).
const maxMessage = 1024

// record is the condition that records what a Service is given, and by which
// installation. What is released has none.
func (w ServiceWrite) record(us string) Condition {
	if w.Allocated == (Condition{}) {
		return Condition{}
	}
	return fact("Recorded", gift{w.Addresses, w.Pools, us}.String())
}

// fact is a condition that stands for its message alone; none where that is empty.
func fact(reason, message string) Condition {
	if message == "" {
		return Condition{}
	}
	return Condition{Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

// The reasons of the condition Moved.
const (
	honored = "Honored"
	refused = "Refused"
)

// answer is the condition that records what became of a request to move.
func answer(m lb.Move) Condition {
	c := fact(honored, m.Token)
	if m.Refused {
		c.Status, c.Reason = metav1.ConditionFalse, refused
	}
	return c
}

// conditionPatch returns the element of a strategic merge patch that changes
// one condition into another, or nil.
func conditionPatch(t ConditionType, have, want Condition, now metav1.Time) any {
	want.Message = cut(want.Message, maxMessage)
	switch {
	case want == Condition{}:
		if have == (Condition{}) {
			return nil
		}
		return object{"$patch": "delete", "type": t}
	case have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message:
		return nil
	}
	since := have.Since
	if have.Status != want.Status {
		since = now
	}
	return metav1.Condition{Type: string(t), Status: want.Status, Reason: want.Reason, Message: want.Message, LastTransitionTime: since}
}

// Carries reports whether the Service already is what a write would make of it.
func (s *Service) Carries(w ServiceWrite) bool { return s.Missing(w) == 0 }

// WriteService makes a Service carry w, as far as the parts go and all of that in one
// write, provided that the Service still is the version s.
func (c *Cluster) WriteService(ctx context.Context, s Service, w ServiceWrite, only Parts) (Outcome, error) {
	patch, changed := s.patch(w, only, metav1.Now())
	if changed == 0 {
		return Unchanged, nil
	}
	return c.patchService(ctx, s.Key, patch)
}

func (c *Cluster) patchService(ctx context.Context, key lb.ServiceKey, patch object) (Outcome, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return Refused, fmt.Errorf("patch of %v: %w", key, err)
	}
	answer, err := c.core.Services(key.Namespace).Patch(ctx, key.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil {
		return classify(err), fmt.Errorf("write status of service %v: %w", key, err)
	}
	return Done, c.services.Answer(answer)
}

// CleanService removes what is left of ours on a Service that has left the
// LoadBalancers, if it still exists and has not come back.
func (c *Cluster) CleanService(ctx context.Context, key lb.ServiceKey, uid string) (Outcome, error) {
	found, err := c.core.Services(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && string(found.UID) != uid {
		return Gone, nil
	}
	if err != nil {
		return max(classify(err), Refused), fmt.Errorf("read service %v: %w", key, err)
	}
	s := c.options.service(found)
	if s == nil || found.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return Unchanged, nil
	}
	w := ServiceWrite{Announced: &Condition{}}
	for _, a := range s.Assigned {
		if s.RecordOf(a) == "" {
			w.Left = append(w.Left, a)
		}
	}
	return c.WriteService(ctx, *s, w, AllParts)
}

// page is how many objects are listed at a time.
const page = 500

// CatchUp makes sure that everything written to Services before the call is
// known. A new leader needs it: its watch may lag behind the last writes of the
// old one, and what it does not know to be taken it might hand out.
func (c *Cluster) CatchUp(ctx context.Context) error {
	return c.listServices(ctx, "spec.type="+string(corev1.ServiceTypeLoadBalancer), func(l *corev1.ServiceList) {
		objects := make([]any, len(l.Items))
		for i := range l.Items {
			objects[i] = &l.Items[i]
		}
		c.services.CatchUp(objects, l.ResourceVersion)
	})
}

// Leftovers finds the Services, with their UID, that ceased to be LoadBalancers
// while nobody watched, and still carry something of ours.
func (c *Cluster) Leftovers(ctx context.Context) (map[lb.ServiceKey]string, error) {
	found := map[lb.ServiceKey]string{}
	err := c.listServices(ctx, "spec.type!="+string(corev1.ServiceTypeLoadBalancer), func(l *corev1.ServiceList) {
		for i := range l.Items {
			if s := c.options.service(&l.Items[i]); s != nil {
				found[s.Key] = s.UID
			}
		}
	})
	return found, err
}

// listServices pages through the Services that a field selector selects, as
// they are at this moment and not as some cache remembers them.
func (c *Cluster) listServices(ctx context.Context, selector string, each func(*corev1.ServiceList)) error {
	o := metav1.ListOptions{FieldSelector: selector, Limit: page}
	for {
		l, err := c.core.Services("").List(ctx, o)
		if err != nil {
			return fmt.Errorf("list services with %s: %w", selector, err)
		}
		each(l)
		if o.Continue = l.Continue; o.Continue == "" {
			return nil
		}
	}
}
