package kube_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/kube/client/versioned"
	"github.com/belfrylb/belfry/internal/objects"
)

// A power is something that somebody tries to do.
type power struct {
	what string
	try  func() error
}

// refused checks that none of them can be done, and returns why not.
func (b *bench) refused(who string, powers ...power) (why []string) {
	b.Helper()
	for _, p := range powers {
		err := p.try()
		if !apierrors.IsForbidden(err) {
			b.Errorf("%s can %s: %v", who, p.what, err)
			continue
		}
		why = append(why, err.Error())
	}
	return why
}

// account returns the clients of a Pod on a node, or of none.
func (b *bench) account(node, account string) (kubernetes.Interface, versioned.Interface) {
	b.Helper()
	config, err := b.lab.Cluster.ConfigOn(b.Context(), node, lab.Namespace, account)
	b.must(err)
	return kubernetes.NewForConfigOrDie(config), versioned.NewForConfigOrDie(config)
}

// A stolen token of a speaker is good for the SpeakerStatus of its own node. It was
// good for much more: an ownerReference written to the status of somebody's Service
// had that deleted.
func TestASpeakersTokenWritesItsOwnReportAndNothingElse(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.create("web")
	b.patch("web", `{"spec":{"type":"ClusterIP"}}`)
	c := b.cluster(controller, objects.Scope{})
	for _, node := range []string{"own-node", "other-node"} {
		b.node(c, node)
	}
	core, own := b.account("own-node", speaker)
	services, statuses, events := core.CoreV1().Services(b.ns), own.BelfryV1beta1().SpeakerStatuses(), core.EventsV1().Events(b.ns)
	patch := func(body string, subresource ...string) func() error {
		return func() error {
			_, err := services.Patch(ctx, "web", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, subresource...)
			return err
		}
	}
	const stray = `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"gone","uid":"d9607e19-f88f-11e6-a518-42010a800195"}]}}`
	b.refused("a speaker",
		power{"have a Service deleted by whom it belongs to", patch(stray, "status")},
		power{"do so by the Service itself", patch(stray)},
		power{"write a Service's condition", patch(`{"status":{"conditions":[{"type":"belfry.dev/Announced","status":"True","reason":"R","message":"","lastTransitionTime":"2024-01-01T00:00:00Z"}]}}`, "status")},
		power{"give a Service an address", patch(`{"status":{"loadBalancer":{"ingress":[{"ip":"2001:db8::1"}]}}}`, "status")},
		power{"annotate a Service", patch(`{"metadata":{"annotations":{"belfry.dev/l2-node":"own-node"}}}`)},
		power{"delete a Service", func() error { return services.Delete(ctx, "web", metav1.DeleteOptions{}) }},
		power{"record an Event", func() error {
			_, err := events.Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		}},
		power{"list namespaces", func() error { _, err := core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); return err }},
		power{"create a Secret", func() error {
			_, err := core.CoreV1().Secrets(lab.Namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		}},
		power{"change a pool", func() error {
			_, err := own.BelfryV1beta1().IPAddressPools().Patch(ctx, "x", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
			return err
		}},
		power{"delete its report", func() error { return statuses.Delete(ctx, "own-node", metav1.DeleteOptions{}) }},
		power{"change more of its report than the status", func() error {
			_, err := statuses.Patch(ctx, "own-node", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
			return err
		}},
	)
	got, err := b.admin.CoreV1().Services(b.ns).Get(ctx, "web", metav1.GetOptions{})
	b.must(err)
	if len(got.OwnerReferences) != 0 || len(got.Status.Conditions) != 0 || len(got.Status.LoadBalancer.Ingress) != 0 {
		t.Errorf("the Service was changed: %+v", got)
	}

	// What RBAC cannot say is for the policy to say: on which object, and with what.
	node, err := b.admin.CoreV1().Nodes().Get(ctx, "own-node", metav1.GetOptions{})
	b.must(err)
	other, err := b.admin.CoreV1().Nodes().Get(ctx, "other-node", metav1.GetOptions{})
	b.must(err)
	of := func(n *corev1.Node, change func(*metav1.OwnerReference)) []metav1.OwnerReference {
		o := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
		if change != nil {
			change(&o)
		}
		return []metav1.OwnerReference{o}
	}
	create := func(in versioned.Interface, name string, change func(*metav1.ObjectMeta)) func() error {
		return func() error {
			s := &v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: of(node, nil)}}
			change(&s.ObjectMeta)
			_, err := in.BelfryV1beta1().SpeakerStatuses().Create(ctx, s, metav1.CreateOptions{})
			return err
		}
	}
	plain := func(*metav1.ObjectMeta) {}
	owners := func(list []metav1.OwnerReference) func(*metav1.ObjectMeta) {
		return func(m *metav1.ObjectMeta) { m.OwnerReferences = list }
	}
	_, unbound := b.account("", speaker)
	_, err = b.own.BelfryV1beta1().SpeakerStatuses().Create(ctx, &v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "other-node", OwnerReferences: of(other, nil)}}, metav1.CreateOptions{})
	b.must(err)
	why := b.refused("a speaker",
		power{"write the report of another node", func() error {
			_, err := statuses.Patch(ctx, "other-node", types.MergePatchType, []byte(`{"status":{"version":"forged"}}`), metav1.PatchOptions{}, "status")
			return err
		}},
		power{"create the report of another node", create(own, "third-node", plain)},
		power{"create one by a token that names no node", create(unbound, "own-node", plain)},
		power{"create one that belongs to another Node", create(own, "own-node", owners(of(other, nil)))},
		power{"create one that belongs to nothing", create(own, "own-node", owners(nil))},
		power{"create one that belongs to two", create(own, "own-node", owners(append(of(node, nil), of(other, nil)...)))},
		power{"create one that keeps its Node from being deleted", create(own, "own-node", owners(of(node, func(o *metav1.OwnerReference) { o.BlockOwnerDeletion = new(true) })))},
		power{"create one that its Node is said to control", create(own, "own-node", owners(of(node, func(o *metav1.OwnerReference) { o.Controller = new(true) })))},
		power{"create one that belongs to something else of that name", create(own, "own-node", owners(of(node, func(o *metav1.OwnerReference) { o.Kind = "ConfigMap" })))},
		power{"create one that cannot be deleted", create(own, "own-node", func(m *metav1.ObjectMeta) { m.Finalizers = []string{"example.com/stay"} })},
	)
	b.must(create(own, "own-node", plain)())
	_, err = statuses.Patch(ctx, "own-node", types.MergePatchType, []byte(`{"status":{"version":"v1"}}`), metav1.PatchOptions{}, "status")
	b.must(err)
	// A status cannot carry in what the policy forbids elsewhere.
	_, err = statuses.Patch(ctx, "own-node", types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/stay"],"ownerReferences":null},"status":{"version":"v2"}}`), metav1.PatchOptions{}, "status")
	b.must(err)
	said, err := b.own.BelfryV1beta1().SpeakerStatuses().Get(ctx, "own-node", metav1.GetOptions{})
	b.must(err)
	if said.Status.Version != "v2" || len(said.OwnerReferences) != 1 || len(said.Finalizers) != 0 {
		t.Errorf("the report is now %+v", said)
	}
	// With more rights than ours gives it, the policy still holds.
	b.bind(speaker, `{"apiGroups":["belfry.dev"],"resources":["speakerstatuses"],"verbs":["delete","patch"]}`)
	b.eventually("the rights count", func() (string, bool) {
		err := statuses.Delete(ctx, "no-node", metav1.DeleteOptions{})
		return fmt.Sprint(err), apierrors.IsNotFound(err)
	})
	why = append(why, b.refused("a speaker with more rights",
		power{"delete its report", func() error { return statuses.Delete(ctx, "own-node", metav1.DeleteOptions{}) }},
		power{"give its report to nobody", func() error {
			_, err := statuses.Patch(ctx, "own-node", types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`), metav1.PatchOptions{})
			return err
		}},
	)...)
	b.everyRuleRefused("belfry-speaker", why)
}

// The controller writes the status of Services, and creates one Secret.
func TestTheControllersTokenMintsNoToken(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.create("web")
	core, own := b.account("", controller)
	create := func(namespace, name string, kind corev1.SecretType) func() error {
		return func() error {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, StringData: map[string]string{"key": strings.Repeat("k", 32)}}
			if kind == corev1.SecretTypeServiceAccountToken {
				s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "default"}
			}
			_, err := core.CoreV1().Secrets(namespace).Create(ctx, s, metav1.CreateOptions{})
			return err
		}
	}
	status := func(body string) func() error {
		return func() error {
			_, err := core.CoreV1().Services(b.ns).Patch(ctx, "web", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "status")
			return err
		}
	}
	secrets := b.admin.CoreV1().Secrets(lab.Namespace)
	if err := secrets.Delete(ctx, "belfry-gossip", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		b.must(err)
	}
	why := b.refused("the controller",
		power{"create a token of another account", create(lab.Namespace, "minted", corev1.SecretTypeServiceAccountToken)},
		power{"create it under the name of the key", create(lab.Namespace, "belfry-gossip", corev1.SecretTypeServiceAccountToken)},
		power{"create a Secret of another name", create(lab.Namespace, "other", corev1.SecretTypeOpaque)},
		power{"have a Service deleted by whom it belongs to", status(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"gone","uid":"d9607e19-f88f-11e6-a518-42010a800195"}]}}`)},
		power{"keep a Service from being deleted", status(`{"metadata":{"finalizers":["example.com/stay"]}}`)},
	)
	b.everyRuleRefused("belfry-controller", why)
	b.refused("the controller",
		power{"create a Secret elsewhere", create(b.ns, "belfry-gossip", corev1.SecretTypeOpaque)},
		power{"write a report", func() error {
			_, err := own.BelfryV1beta1().SpeakerStatuses().Patch(ctx, "x", types.MergePatchType, []byte(`{"status":{"version":"x"}}`), metav1.PatchOptions{}, "status")
			return err
		}},
		power{"delete a report", func() error {
			return own.BelfryV1beta1().SpeakerStatuses().Delete(ctx, "x", metav1.DeleteOptions{})
		}},
	)
	b.must(create(lab.Namespace, "belfry-gossip", corev1.SecretTypeOpaque)())
	b.must(secrets.Delete(ctx, "belfry-gossip", metav1.DeleteOptions{}))
	b.must(status(`{"metadata":{"annotations":{"belfry.dev/pool":"edge"}},"status":{"conditions":[{"type":"belfry.dev/Announced","status":"True","reason":"R","message":"","lastTransitionTime":"2024-01-01T00:00:00Z"}]}}`)())
}

// Kustomize's "namespace:" gives a second installation bindings of the same names. On
// kubectl apply they took the rights of the first.
func TestASecondInstallationDoesNotTakeTheFirstOnesRights(t *testing.T) {
	b := newBench(t)
	bindings := b.admin.RbacV1().ClusterRoleBindings()
	var why []string
	for _, name := range []string{"belfry-controller", "belfry-speaker"} {
		why = append(why, b.refused("an administrator", power{"give " + name + " to another namespace", func() error {
			_, err := bindings.Patch(t.Context(), name, types.JSONPatchType,
				[]byte(`[{"op":"replace","path":"/subjects/0/namespace","value":"belfry-second"}]`), metav1.PatchOptions{})
			return err
		}})...)
		// The same installation, applied anew or upgraded.
		_, err := bindings.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/applied":"2"}}}`), metav1.PatchOptions{})
		b.must(err)
	}
	b.everyRuleRefused("belfry-installation", why)
}

// bind gives an account another right until the test ends.
func (b *bench) bind(account, rule string) {
	b.Helper()
	b.must(b.lab.Cluster.Apply(b.Context(), fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %[1]s-more}
rules: [%[2]s]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s-more}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s-more}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[3]s}]
`, account, rule, lab.Namespace)))
	b.Cleanup(func() {
		ctx := context.WithoutCancel(b.Context())
		_ = b.admin.RbacV1().ClusterRoleBindings().Delete(ctx, account+"-more", metav1.DeleteOptions{})
		_ = b.admin.RbacV1().ClusterRoles().Delete(ctx, account+"-more", metav1.DeleteOptions{})
	})
}

// everyRuleRefused checks that each rule of a shipped policy has refused something.
func (b *bench) everyRuleRefused(policy string, why []string) {
	b.Helper()
	text, err := os.ReadFile("../../manifests/base/admission.yaml")
	b.must(err)
	rules := 0
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var p admissionv1.ValidatingAdmissionPolicy
		b.must(yaml.Unmarshal([]byte(document), &p))
		if p.Kind != "ValidatingAdmissionPolicy" || p.Name != policy {
			continue
		}
		for _, v := range p.Spec.Validations {
			says := v.Message
			if says == "" {
				says = "writes the SpeakerStatus of that node alone"
			}
			hit := false
			for _, w := range why {
				hit = hit || strings.Contains(w, "'"+policy+"'") && strings.Contains(w, says)
			}
			if !hit {
				b.Errorf("nothing was refused because: %s (%s); refused were\n%s", says, v.Expression, strings.Join(why, "\n"))
			}
			rules++
		}
	}
	if rules == 0 {
		b.Errorf("%s has no rules", policy)
	}
}
