package controller_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// What others may write, and what becomes of it, against a real API server.

// tenant returns the access of a user who has the stock role edit in the namespace
// default. No controller manager is there to aggregate that role, so the user has the
// roles that it consists of.
func (w *world) tenant() kubernetes.Interface {
	w.Helper()
	for _, role := range []string{"system:aggregate-to-edit", "system:aggregate-to-view"} {
		_, err := w.core.RbacV1().RoleBindings("default").Create(w.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "tenant-" + strings.ReplaceAll(role, ":", "-")},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "tenant"}},
		}, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			w.must(err)
		}
	}
	config := rest.CopyConfig(w.lab.Cluster.AdminConfig())
	config.Impersonate = rest.ImpersonationConfig{UserName: "tenant", Groups: []string{"system:authenticated"}}
	return kubernetes.NewForConfigOrDie(config)
}

// replace does what kubectl replace does with a manifest that has these annotations.
func (w *world) replace(as kubernetes.Interface, name string, annotations map[string]string) {
	w.Helper()
	w.eventually("service "+name+" is replaced", func() (string, bool) {
		s, err := as.CoreV1().Services("default").Get(w.Context(), name, metav1.GetOptions{})
		w.must(err)
		s.Annotations = annotations
		s.Status = corev1.ServiceStatus{} // which the API server passes over
		_, err = as.CoreV1().Services("default").Update(w.Context(), s, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			w.must(err)
		}
		return fmt.Sprint(err), err == nil
	})
}

// leave writes into a Service's status what another load balancer left there.
func (w *world) leave(name string, ingress ...corev1.LoadBalancerIngress) {
	w.Helper()
	s := w.service(name)
	s.Status.LoadBalancer.Ingress = ingress
	_, err := w.core.CoreV1().Services("default").UpdateStatus(w.Context(), s, metav1.UpdateOptions{})
	w.must(err)
}

func (w *world) editPool(name, patch string) {
	w.Helper()
	_, err := w.own.BelfryV1beta1().IPAddressPools().Patch(w.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must(err)
}

func (w *world) deletePool(name string) {
	w.Helper()
	w.must(w.own.BelfryV1beta1().IPAddressPools().Delete(w.Context(), name, metav1.DeleteOptions{}))
}

func (w *world) goes(pool string) {
	w.Helper()
	w.eventually("pool "+pool+" is gone", func() (string, bool) {
		p, err := w.own.BelfryV1beta1().IPAddressPools().Get(w.Context(), pool, metav1.GetOptions{})
		return fmt.Sprint(p.Finalizers, err), apierrors.IsNotFound(err)
	})
}

const unannounced = " Announced=False/NoAdvertisement"

func TestNoAnnotationOfOursIsEvidence(t *testing.T) {
	w := newWorld(t)
	tenant := w.tenant()
	limited := func(s *v1beta1.IPAddressPoolSpec) {
		s.ServiceAllocation = &v1beta1.ServiceAllocation{PerNamespaceLimit: 1, Namespaces: []v1beta1.NamespaceName{"default"}}
	}
	elsewhere := func(s *v1beta1.IPAddressPoolSpec) {
		s.ServiceAllocation = &v1beta1.ServiceAllocation{Namespaces: []v1beta1.NamespaceName{"elsewhere"}}
	}
	w.pool("internal", limited, "192.0.2.0/28", "2001:db8::/124")
	w.pool("public", elsewhere, "198.51.100.0/28", "2001:db8:1::/124")
	w.start("a")
	w.expose("web", dualStack)
	w.becomes("web", "Allocated=False/LimitReached")
	w.editPool("internal", `{"spec":{"serviceAllocation":{"perNamespaceLimit":2}}}`)
	w.becomes("web", "192.0.2.0 2001:db8:: pool=internal Allocated=True/Allocated"+unannounced)
	w.patch("web", `{"metadata":{"annotations":{"belfry.dev/reallocate":"1"}}}`)
	const moved = "192.0.2.1 2001:db8::1 pool=internal Allocated=True/Allocated Reallocated=True/Honored" + unannounced
	w.becomes("web", moved)

	for _, annotations := range []map[string]string{
		{"belfry.dev/reallocate": "1"}, // as in the manifest, without those of ours
		{
			"belfry.dev/reallocate": "1", "belfry.dev/reallocated": "0",
			"belfry.dev/pool": "public", "belfry.dev/l2-node": "nowhere", "belfry.dev/installation": "elsewhere",
		},
	} {
		w.replace(tenant, "web", annotations)
		w.becomes("web", moved)
		w.settled()
		w.becomes("web", moved)
		w.expose("more") // gets round no limit
		w.becomes("more", "Allocated=False/LimitReached")
		w.must(w.core.CoreV1().Services("default").Delete(t.Context(), "more", metav1.DeleteOptions{}))
	}
	if s := w.status("public"); s.IPv4.Assigned+s.IPv6.Assigned > 0 {
		t.Errorf("public: %+v %+v", s.IPv4, s.IPv6)
	}
	w.deletePool("public")
	w.goes("public")

	forged := `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9"}]}}}`
	_, err := tenant.CoreV1().Services("default").Patch(t.Context(), "web", types.MergePatchType, []byte(forged), metav1.PatchOptions{}, "status")
	if !apierrors.IsForbidden(err) {
		t.Errorf("a tenant writes a status: %v", err)
	}
}

func TestWhatOthersLeftIsReplacedAndNotEmptied(t *testing.T) {
	w := newWorld(t)
	n, err := w.core.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
	w.must(err)
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "203.0.113.11"}, {Type: corev1.NodeInternalIP, Address: "2001:db8:2::11"}}
	_, err = w.core.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
	w.must(err)
	w.expose("klipper", dualStack)
	w.expose("cloud")
	w.expose("former")
	w.leave("klipper", corev1.LoadBalancerIngress{IP: "203.0.113.11"}, corev1.LoadBalancerIngress{IP: "2001:db8:2::11"})
	w.leave("cloud", corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
	w.leave("former", corev1.LoadBalancerIngress{IP: "203.0.113.7"})
	before := w.service("cloud").Status.LoadBalancer
	w.start("a")
	w.becomes("klipper", "203.0.113.11 2001:db8:2::11 Allocated=False/ForeignAddress Recorded=True/Recorded")
	w.becomes("cloud", " Allocated=False/ForeignAddress") // an entry without an address
	w.becomes("former", "203.0.113.7 Allocated=False/ForeignAddress Recorded=True/Recorded")
	w.settled()
	if after := w.service("cloud").Status.LoadBalancer; !reflect.DeepEqual(after, before) {
		t.Errorf("was %+v, is %+v", before, after)
	}
	w.eventually("an Event says why", func() (string, bool) {
		got := w.events("klipper")
		return fmt.Sprintf("%q", got), len(got) == 1 && strings.Contains(got[0], "203.0.113.11 of node node1")
	})

	w.pool("edge", nil, "192.0.2.0/29", "2001:db8::/125", "203.0.113.8/29")
	for _, name := range []string{"klipper", "cloud", "former"} {
		w.eventually(name+" has an address of the pool", func() (string, bool) {
			got := told(w.service(name))
			return got, strings.HasPrefix(got, "192.0.2.") && strings.HasSuffix(got, " pool=edge Allocated=True/Allocated"+unannounced)
		})
	}
}

// A Service of another class has in its status what we have given to one of ours since, and
// then is ours itself: it has no record of the address, so it does not take it, though older.
func TestAServiceThatComesWithTheAddressOfAnotherDoesNotTakeIt(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.advertise()
		b.expose("came", func(s *corev1.Service) {
			s.Spec.LoadBalancerClass = new("example.com/other")
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.0"}, {IP: "2001:db8::"}}
		})
		b.passes(time.Minute)
		stop := b.lead()
		b.expose("web")
		b.endpoints("web")
		b.passes(time.Minute)
		held := b.carries("web")
		if !strings.HasPrefix(held, "192.0.2.0 2001:db8:: ") {
			t.Fatalf("web shows %q", held)
		}
		for _, restarts := range []bool{false, true} {
			if restarts {
				stop()
			}
			b.api.Writes()
			b.told()
			b.edit("came", func(s *corev1.Service) {
				s.Spec.LoadBalancerClass = nil
				s.Status.Conditions = nil
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.0"}, {IP: "2001:db8::"}}
			})
			if restarts {
				stop = b.lead()
			}
			b.passes(time.Minute)
			b.shows("web", held)
			if got := b.carries("came"); strings.HasPrefix(got, "192.0.2.0 ") || !strings.Contains(got, "Allocated=True/Allocated") {
				t.Errorf("the one that came shows %q", got)
			}
			for _, w := range b.api.Writes() {
				if w.Resource == "services" && w.Name != "came" {
					t.Errorf("%v", w)
				}
			}
			const why = "another writer put it into the status, and it is the address of default/web"
			if got := b.told(); slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, " web: ") }) ||
				!slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, why) }) {
				t.Errorf("the Events are %q", got)
			}
		}
	})
}

func TestAPoolThatGoesYieldsToItsSuccessor(t *testing.T) {
	w := newWorld(t)
	w.pool("old", nil, "192.0.2.0/30", "2001:db8::/126")
	w.start("a")
	w.expose("web", dualStack)
	w.becomes("web", "192.0.2.0 2001:db8:: pool=old Allocated=True/Allocated"+unannounced)
	w.eventually("the pool is kept", func() (string, bool) {
		p, err := w.own.BelfryV1beta1().IPAddressPools().Get(t.Context(), "old", metav1.GetOptions{})
		w.must(err)
		return fmt.Sprint(p.Finalizers), slices.Contains(p.Finalizers, "belfry.dev/in-use")
	})
	w.deletePool("old")
	w.pool("new", nil, "192.0.2.0/30", "2001:db8::/126")
	w.becomes("web", "192.0.2.0 2001:db8:: pool=old Allocated=True/Orphaned"+unannounced)
	w.expose("late", dualStack)
	w.becomes("late", "192.0.2.1 2001:db8::1 pool=new Allocated=True/Allocated"+unannounced)
	w.eventually("the new pool serves all but what is in use", func() (string, bool) {
		s := w.status("new")
		return fmt.Sprintf("%+v", s), s.IPv4 != nil && s.IPv4.Total == 4 && s.IPv4.Available == 2 && s.Conditions[0].Status == metav1.ConditionTrue
	})
	w.patch("web", `{"metadata":{"annotations":{"belfry.dev/reallocate":"1"}}}`)
	w.becomes("web", "192.0.2.2 2001:db8::2 pool=new Allocated=True/Allocated Reallocated=True/Honored"+unannounced)
	w.goes("old")
}

func TestAPoolThatGrowsTakesNothingInUse(t *testing.T) {
	for _, policy := range []v1beta1.OrphanPolicy{v1beta1.OrphanKeep, v1beta1.OrphanReassign} {
		t.Run(string(policy), func(t *testing.T) { growOver(t, policy) })
	}
}

func growOver(t *testing.T, policy v1beta1.OrphanPolicy) {
	w := newWorld(t)
	orphans := func(s *v1beta1.IPAddressPoolSpec) { s.OrphanPolicy = policy }
	w.pool("older", orphans, "10.0.0.0/24", "2001:db8::/120") // or of the same second, and the first by name
	w.pool("young", orphans, "10.0.1.0/24", "2001:db8::100/120")
	w.start("a")
	w.expose("web", dualStack, annotated("belfry.dev/loadBalancerIPs", "10.0.1.3,2001:db8::103"))
	w.becomes("web", "10.0.1.3 2001:db8::103 pool=young Allocated=True/Allocated"+unannounced)
	w.editPool("older", `{"spec":{"addresses":["10.0.0.0/23","2001:db8::/119"]}}`)
	w.becomes("web", "10.0.1.3 2001:db8::103 pool=young Allocated=True/Kept"+unannounced)
	w.settled()
	w.becomes("web", "10.0.1.3 2001:db8::103 pool=young Allocated=True/Kept"+unannounced)
	w.eventually("the older one serves the rest", func() (string, bool) {
		s := w.status("older")
		return fmt.Sprintf("%+v", s), s.IPv4.Available == 511 && len(s.Orphans) == 0
	})
	if got := w.events("web"); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "IPReleased") }) {
		t.Errorf("%q", got)
	}
}

// A fighter puts its name into a Service's status whenever that shows anything else.
type fighter struct {
	stop   context.CancelFunc
	ended  chan struct{}
	writes atomic.Int64
}

func (w *world) fighter(manager, name string) *fighter {
	w.Helper()
	config := rest.CopyConfig(w.lab.Cluster.AdminConfig())
	config.UserAgent = manager + "/1"
	services := kubernetes.NewForConfigOrDie(config).CoreV1().Services("default")
	ctx, stop := context.WithCancel(w.Context())
	f := &fighter{stop: stop, ended: make(chan struct{})}
	watch, err := services.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	w.must(err)
	go func() {
		defer close(f.ended)
		defer watch.Stop()
		for event := range watch.ResultChan() {
			s, ok := event.Object.(*corev1.Service)
			if !ok || len(s.Status.LoadBalancer.Ingress) == 1 && s.Status.LoadBalancer.Ingress[0].Hostname != "" {
				continue
			}
			patch := `{"status":{"loadBalancer":{"ingress":[{"hostname":"lb.example.com"}]}}}`
			if _, err := services.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err == nil {
				f.writes.Add(1)
			}
		}
	}()
	w.Cleanup(f.end)
	return f
}

// end has it stop.
func (f *fighter) end() {
	f.stop()
	<-f.ended
}

func TestAWriterThatFightsForAStatusIsFoughtThreeTimes(t *testing.T) {
	w := newWorld(t)
	w.start("a")
	w.expose("web", dualStack)
	f := w.fighter("lb-operator", "web")
	w.becomes("web", " Allocated=False/ForeignAddress")
	mark := w.mark()
	w.pool("edge", nil, "192.0.2.0-192.0.2.50", "2001:db8::-2001:db8::32")
	w.eventually("the status is contested", func() (string, bool) {
		got := told(w.service("web"))
		return got, strings.Contains(got, "Allocated=False/Contested")
	})
	w.expose("beside", dualStack)
	w.settled()
	writes := slices.DeleteFunc(w.writes(mark), func(line string) bool { return !strings.Contains(line, "services/web") })
	if len(writes) != 4 {
		t.Errorf("we wrote, want three times and once that it is contested:\n%s", strings.Join(writes, "\n"))
	}
	if n := f.writes.Load(); n != 4 {
		t.Errorf("the other one wrote %d times, want once and after each of three", n)
	}
	message := meta.FindStatusCondition(w.service("web").Status.Conditions, "belfry.dev/Allocated").Message
	if !strings.HasPrefix(message, "field manager lb-operator changes ") || !strings.Contains(message, "keeps 192.0.2.0 and 2001:db8:: from pool edge") {
		t.Errorf("it says %q", message)
	}
	if s := w.status("edge"); s.IPv4.Assigned != 2 || s.IPv6.Assigned != 2 || len(s.Freed) > 0 {
		t.Errorf("in use are %+v and %+v, freed %v", s.IPv4, s.IPv6, s.Freed)
	}

	// The other writer has gone, and the owner of the Service changes it.
	f.end()
	w.patch("web", `{"metadata":{"labels":{"fixed":"yes"}}}`)
	w.within(90*time.Second, "all is as before", func() (string, bool) {
		got := told(w.service("web"))
		return got, got == "192.0.2.0 2001:db8:: pool=edge Allocated=True/Allocated"+unannounced
	})
	w.becomes("beside", "192.0.2.1 2001:db8::1 pool=edge Allocated=True/Allocated"+unannounced)
}
