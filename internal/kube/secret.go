package kube

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// GossipKey is the key of the gossip Secret under which its text stands.
const GossipKey = "key"

// EnsureGossipSecret creates the Secret from which the speakers derive the key
// of their gossip, unless it exists. One that exists is never touched: other
// speakers talk by it.
func EnsureGossipSecret(ctx context.Context, client *CoreClient, namespace, secret string) (created bool, err error) {
	secrets := client.Secrets(namespace)
	_, err = secrets.Get(ctx, secret, metav1.GetOptions{})
	if err == nil {
		return false, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("read secret %s/%s: %w", namespace, secret, err)
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return false, fmt.Errorf("random key: %w", err)
	}
	_, err = secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secret},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{GossipKey: []byte(base64.StdEncoding.EncodeToString(random))},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create secret %s/%s: %w", namespace, secret, err)
	}
	return true, nil
}
