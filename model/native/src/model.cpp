#include "model.h"

#include <stdexcept>
#include <utility>

namespace slotwise {

namespace {

void require(bool condition, const std::string& problem) {
    if (!condition) throw std::invalid_argument(problem);
}

const char* const NAMES[SW_NUM_ROLES] = {"embedding", "final norm", "lm_head", "attention norm", "q", "k", "v", "o",
                                         "q norm", "k norm", "mlp norm", "gate", "up", "down", "router"};

std::string name_of(int role, int layer, int expert) {
    return std::string(NAMES[role]) + " of layer " + std::to_string(layer) + ", expert " + std::to_string(expert);
}

}  // namespace

Model::Model(const sw_config& given, const char* isa) : config(given), kernels(choose_kernels(isa)) {
    require(kernels, "there are no such kernels, or this processor cannot run them");
    require(config.vocab_size > 0 && config.hidden_size > 0 && config.num_layers > 0, "a dimension is not positive");
    require(config.num_heads > 0 && config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads == 0,
            "the number of heads must be a multiple of the number of kv heads");
    require(config.head_dim >= 8 && config.head_dim <= 256 && config.head_dim % 8 == 0,
            "the head size must be a multiple of 8, at most 256");
    require(config.num_experts == 0 ||
                (config.num_experts_per_token > 0 && config.num_experts_per_token <= config.num_experts),
            "more experts are chosen than there are");
    require(config.num_shared_experts >= 0 && (config.num_experts > 0 || config.num_shared_experts == 0),
            "experts are shared where there are none to choose from");
    rope_inverse.assign(config.rope_inverse, config.rope_inverse + config.head_dim / 2);
    layers = std::vector<Layer>(config.num_layers);
    for (int32_t i = 0; i < config.num_layers; ++i) {
        layers[i].is_moe = config.num_experts > 0 && config.is_moe_layer[i];
        if (layers[i].is_moe) layers[i].experts = std::vector<GatedMLP>(all_experts(config));
    }
    config.rope_inverse = nullptr;  // the caller's memory
    config.is_moe_layer = nullptr;
}

Layer& Model::layer_at(int layer) {
    require(layer >= 0 && layer < config.num_layers, "there is no layer " + std::to_string(layer));
    return layers[layer];
}

GatedMLP& Model::mlp_at(int layer, int expert) {
    Layer& l = layer_at(layer);
    if (!l.is_moe) return l.mlp;
    require(expert >= 0 && expert < all_experts(config), "there is no expert " + std::to_string(expert));
    return l.experts[expert];
}

PackedMatrix* Model::matrix_at(int role, int layer, int expert) {
    switch (role) {
        case SW_EMBEDDING: return &embedding;
        case SW_LM_HEAD: return &lm_head;
        case SW_Q: return &layer_at(layer).q;
        case SW_K: return &layer_at(layer).k;
        case SW_V: return &layer_at(layer).v;
        case SW_O: return &layer_at(layer).o;
        case SW_GATE: return &mlp_at(layer, expert).gate;
        case SW_UP: return &mlp_at(layer, expert).up;
        case SW_DOWN: return &mlp_at(layer, expert).down;
        case SW_ROUTER: return layer_at(layer).is_moe ? &layers[layer].router : nullptr;
    }
    return nullptr;
}

Vector* Model::vector_at(int role, int layer) {
    switch (role) {
        case SW_FINAL_NORM: return &final_norm;
        case SW_ATTENTION_NORM: return &layer_at(layer).attention_norm;
        case SW_Q_NORM: return &layer_at(layer).q_norm;
        case SW_K_NORM: return &layer_at(layer).k_norm;
        case SW_MLP_NORM: return &layer_at(layer).mlp_norm;
    }
    return nullptr;
}

Model::Shape Model::shape_of(int role, int layer) const {
    const sw_config& c = config;
    int32_t f = layers[layer].is_moe ? c.expert_intermediate_size : c.intermediate_size;
    switch (role) {
        case SW_EMBEDDING: case SW_LM_HEAD: return {c.vocab_size, c.hidden_size};
        case SW_Q: return {c.num_heads * c.head_dim, c.hidden_size};
        case SW_K: case SW_V: return {c.num_kv_heads * c.head_dim, c.hidden_size};
        case SW_O: return {c.hidden_size, c.num_heads * c.head_dim};
        case SW_GATE: case SW_UP: return {f, c.hidden_size};
        case SW_DOWN: return {c.hidden_size, f};
        case SW_ROUTER: return {c.num_experts, c.hidden_size};
        case SW_Q_NORM: case SW_K_NORM: return {1, c.head_dim};
    }
    return {1, c.hidden_size};
}

void Model::set(int role, int layer, int expert, Encoding encoding, int32_t rows, int32_t columns, const void* data,
                int64_t num_bytes) {
    require(role >= 0 && role < SW_NUM_ROLES, "there is no tensor of role " + std::to_string(role));
    require(encoding >= Encoding::F32 && encoding <= Encoding::Q4_1, "there is no such encoding");
    std::string name = name_of(role, layer, expert);
    layer_at(layer);
    Shape shape = shape_of(role, layer);
    require(rows == shape.rows && columns == shape.columns, name + ": the model has another shape there");
    require(num_bytes == rows * row_bytes(encoding, columns), name + ": the shape asks for another number of bytes");
    if (Vector* vector = vector_at(role, layer)) {
        require(encoding == Encoding::F32, name + ": a vector is kept as F32");
        *vector = Vector(columns, static_cast<const float*>(data));
        return;
    }
    PackedMatrix* matrix = matrix_at(role, layer, expert);
    require(matrix, name + ": the model has no such tensor");
    *matrix = PackedMatrix(encoding, rows, columns, static_cast<const uint8_t*>(data));
}

void Model::set_bias(int role, int layer, int expert, int32_t rows, const float* data) {
    require(role >= 0 && role < SW_NUM_ROLES, "there is no tensor of role " + std::to_string(role));
    PackedMatrix* matrix = matrix_at(role, layer, expert);
    std::string name = name_of(role, layer, expert);
    require(matrix && matrix->is_set(), name + ": the matrix of this bias has not been set");
    require(rows == matrix->get().rows, name + ": the bias has another size than the matrix has rows");
    matrix->set_bias(data);
}

void Model::set_adapter(int number, int role, int layer, LowRank pair) {
    require(role >= 0 && role < SW_NUM_ROLES, "there is no tensor of role " + std::to_string(role));
    require(number >= 1 && number <= (int)adapters.size() + 1, "an adapter's number has been left out");
    Layer& l = layer_at(layer);
    std::string name = name_of(role, layer, 0);
    if (number > (int)adapters.size()) adapters.push_back({std::vector<AdaptedLayer>(config.num_layers)});
    LowRank* place = adapters[number - 1].layers[layer].at(role);
    const bool is_of_mlp = role == SW_GATE || role == SW_UP || role == SW_DOWN;
    require(place && !(is_of_mlp && l.is_moe), name + ": no adapter can be beside it");
    Shape shape = shape_of(role, layer);
    require(pair.rows == shape.rows && pair.columns == shape.columns, name + ": the adapter has another shape");
    *place = std::move(pair);
}

int64_t Model::num_bytes() const {
    int64_t total = 0;
    for (const Adapter& adapter : adapters)
        for (const AdaptedLayer& l : adapter.layers)
            for (const LowRank* pair : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) total += pair->num_bytes();
    auto count = [&](const auto& tensor, int role, int layer, int expert) {
        require(tensor.is_set(), name_of(role, layer, expert) + " has not been set");
        total += tensor.num_bytes();
    };
    count(embedding, SW_EMBEDDING, 0, 0);
    count(final_norm, SW_FINAL_NORM, 0, 0);
    total += lm_head.num_bytes();
    for (int i = 0; i < config.num_layers; ++i) {
        const Layer& l = layers[i];
        count(l.attention_norm, SW_ATTENTION_NORM, i, 0);
        count(l.mlp_norm, SW_MLP_NORM, i, 0);
        if (config.qk_norm) count(l.q_norm, SW_Q_NORM, i, 0);
        if (config.qk_norm) count(l.k_norm, SW_K_NORM, i, 0);
        count(l.q, SW_Q, i, 0);
        count(l.k, SW_K, i, 0);
        count(l.v, SW_V, i, 0);
        count(l.o, SW_O, i, 0);
        if (l.is_moe) count(l.router, SW_ROUTER, i, 0);
        int num_mlps = l.is_moe ? all_experts(config) : 1;
        for (int e = 0; e < num_mlps; ++e) {
            const GatedMLP& mlp = l.is_moe ? l.experts[e] : l.mlp;
            count(mlp.gate, SW_GATE, i, e);
            count(mlp.up, SW_UP, i, e);
            count(mlp.down, SW_DOWN, i, e);
        }
    }
    return total;
}

}  // namespace slotwise
