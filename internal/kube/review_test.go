package kube_test

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/scrape"
)

// Who may read the metrics is what RBAC says, by the role that is shipped.
func TestTheAPIServerSaysWhoMayReadTheMetrics(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	token := func(account string) string {
		t.Helper()
		_, err := b.admin.CoreV1().ServiceAccounts(b.ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
		b.must(err)
		answer, err := b.admin.CoreV1().ServiceAccounts(b.ns).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		b.must(err)
		return answer.Status.Token
	}
	reader, stranger := token("reader"), token("stranger")
	binding, err := b.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: b.ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "belfry-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: b.ns, Name: "reader"}},
	}, metav1.CreateOptions{})
	b.must(err)
	for _, account := range []string{controller, speaker} {
		review := kube.MayGet(b.clients(account).Core, "/metrics")
		for _, c := range []struct {
			whose, token string
			want         scrape.Access
		}{
			{"reader", reader, scrape.Allowed},
			{"stranger", stranger, scrape.Forbidden},
			{"nobody", "not.a.token", scrape.Unknown},
		} {
			// RBAC's own caches follow within moments.
			b.eventually("the "+account+" sees that the "+c.whose+" is "+c.want.String(), func() (string, bool) {
				got, err := review(ctx, c.token)
				if err != nil {
					return err.Error(), false
				}
				return got.String(), got == c.want
			})
		}
		if got, err := kube.MayGet(b.clients(account).Core, "/elsewhere")(ctx, reader); err != nil || got != scrape.Forbidden {
			t.Errorf("another path: %s, %v", got, err)
		}
	}
	b.must(b.admin.RbacV1().ClusterRoleBindings().Delete(ctx, binding.Name, metav1.DeleteOptions{}))
	b.must(b.admin.CoreV1().ServiceAccounts(b.ns).Delete(ctx, "stranger", metav1.DeleteOptions{}))
	review := kube.MayGet(b.clients(controller).Core, "/metrics")
	b.eventually("a right that is taken away is gone", func() (string, bool) {
		got, err := review(ctx, reader)
		return got.String(), err == nil && got == scrape.Forbidden
	})
	b.eventually("the token of a deleted account is nobody's", func() (string, bool) {
		got, err := review(ctx, stranger)
		return got.String(), err == nil && got == scrape.Unknown
	})
}
