package kube

import (
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/belfrylb/belfry/internal/kube/client/versioned"
)

// Clients are the API clients of a binary.
type Clients struct {
	// Core is for Kubernetes' own kinds, spoken in protobuf.
	Core kubernetes.Interface
	// Own is for the kinds of group belfry.dev.
	Own versioned.Interface
}

// LoadConfig reads a kubeconfig file, or takes the Pod's own credentials when
// path is empty.
func LoadConfig(path string) (*rest.Config, error) {
	if path == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", path)
}

// NewClients makes the clients of a binary that calls itself userAgent.
//
// They limit no rates: the API server has priority and fairness for that, and a
// client that queues its own requests delays the urgent behind the many. What
// bounds us is how many requests we have in flight.
func NewClients(config *rest.Config, userAgent string) (Clients, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = userAgent
	config.QPS = -1
	own, err := versioned.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("client for %s: %w", config.Host, err)
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("client for %s: %w", config.Host, err)
	}
	return Clients{Core: core, Own: own}, nil
}

// LogTo makes client-go log to a logger.
func LogTo(log *slog.Logger) {
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
}
