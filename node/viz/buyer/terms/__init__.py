"""What a node offers and a buyer agreed to, checked: offers, prices, quotes, token counts."""
