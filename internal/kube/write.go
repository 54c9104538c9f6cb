package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// object is a part of a patch.
type object = objects.Patch

// WriteService makes a Service carry w, as far as the parts go and all of that in one
// write, provided that the Service still is the version s.
func (c *Cluster) WriteService(ctx context.Context, s objects.Service, w objects.ServiceWrite, only objects.Parts) (Outcome, error) {
	patch, changed := s.Patch(w, only, metav1.Now())
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
	s := c.scope.Service(found)
	if s == nil || found.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return Unchanged, nil
	}
	w := objects.ServiceWrite{Announced: &objects.Condition{}}
	for _, a := range s.Assigned {
		if s.RecordOf(a) == "" {
			w.Left = append(w.Left, a)
		}
	}
	return c.WriteService(ctx, *s, w, objects.AllParts)
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
// while no controller watched, and still carry something of ours.
func (c *Cluster) Leftovers(ctx context.Context) (map[lb.ServiceKey]string, error) {
	found := map[lb.ServiceKey]string{}
	err := c.listServices(ctx, "spec.type!="+string(corev1.ServiceTypeLoadBalancer), func(l *corev1.ServiceList) {
		for i := range l.Items {
			if s := c.scope.Service(&l.Items[i]); s != nil {
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
